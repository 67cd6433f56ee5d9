"""A canister's public facts: its Candid service, and the hash that stands for a module's."""

from __future__ import annotations

import functools
import hashlib

from canister.api import codec
from canister.api.methods import METHODS
from canister.ic import did


@functools.cache
def candid_service() -> str:
    """The interface as the `.did` text that tools fetch."""
    return did.render(METHODS, codec.MARKS)


@functools.cache
def module_hash() -> bytes:
    """SHA-256. There is no Wasm module; tools use a module's hash to see whether the interface has changed."""
    return hashlib.sha256(candid_service().encode()).digest()
