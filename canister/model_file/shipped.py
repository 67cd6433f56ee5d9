"""The chat model that comes with the package."""

from __future__ import annotations

from pathlib import Path

SHIPPED_MODEL = "llama-canister-tiny.gguf"


def shipped_model() -> Path | None:
    """Its file: inside an installed wheel, or in the checkout."""
    package = Path(__file__).parent.parent
    for path in (package / "shipped" / SHIPPED_MODEL, package.parent / "models" / SHIPPED_MODEL):
        if path.is_file():
            return path
    return None
