"""What anybody may know of a canister's interface: its Candid service, and the hash that stands for a module's."""

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
    """SHA-256. There is no Wasm module; what tools want to know by its hash is whether the interface has changed."""
    return hashlib.sha256(candid_service().encode()).digest()
