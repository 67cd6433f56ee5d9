"""The rows of entries of the control log, by their names."""

from __future__ import annotations

from canister.api import management
from canister.api.methods import BY_NAME, Method


def find_row(name: str) -> Method:
    """A row of the interface or of the management canister. MethodNotFound."""
    return BY_NAME[name] if name in BY_NAME else management.find_method(name)
