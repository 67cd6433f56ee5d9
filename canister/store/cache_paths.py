"""Where prompt caches lie in stable memory: a folder for each caller, and beside each cache a sidecar."""

from __future__ import annotations

CACHE_FOLDER = ".canister_cache"  # below it a folder for each caller
SESSIONS = "sessions"
SIDECAR = ".icppfmt"


def sessions_of(caller: str) -> str:
    """The folder of a caller's prompt caches."""
    return f"{CACHE_FOLDER}/{caller}/{SESSIONS}"


def sessions_folder(path: str) -> str | None:
    """The folder of a caller's prompt caches in which a clean path lies; None for a path that is no prompt cache."""
    parts = path.split("/", 3)
    if len(parts) < 4 or parts[0] != CACHE_FOLDER or parts[2] != SESSIONS or path.endswith(SIDECAR):
        return None
    return "/".join(parts[:3])
