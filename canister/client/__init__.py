"""Talking to a server: over REST, with signed messages, and whole files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canister.client.rest import Canister

__all__ = ["Canister"]


def __getattr__(name: str) -> Any:
    # Not imported above, so that importing another module of this package loads neither HTTP nor all records.
    if name == "Canister":
        from canister.client.rest import Canister

        return Canister
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
