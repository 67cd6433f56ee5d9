"""The chat model that comes with the package."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

SHIPPED_MODEL = "llama-canister-tiny.gguf"


def shipped_model() -> Path | None:
    """Its file: inside an installed wheel, or in the checkout."""
    package = Path(__file__).parent
    for path in (package / "shipped" / SHIPPED_MODEL, package.parent / "models" / SHIPPED_MODEL):
        if path.is_file():
            return path
    return None


@functools.cache
def shipped_sha256() -> frozenset[bytes]:
    """Its SHA-256, as a set; empty where it is not."""
    path = shipped_model()
    if path is None:
        return frozenset()
    with path.open("rb") as file:
        return frozenset({hashlib.file_digest(file, "sha256").digest()})
