"""The installed distribution: its name and its version."""

from __future__ import annotations

from importlib import metadata

NAME = "llama-canister"


def version() -> str:
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "not installed"
