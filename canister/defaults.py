"""Defaults, for code that needs them without loading the settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

INTERFACE_VERSION = "0.16"  # of llama_cpp_canister, whose interface this is
DEFAULT_CANISTER = "llama_cpp"
DEFAULT_PORT = 8000
UPDATE_LIMIT = 40_000_000_000
QUERY_LIMIT = 5_000_000_000
PROMPT_MARGIN_TOKENS = 4  # a prompt must leave this much of the context free
LOCAL_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
ENVIRONMENT_PREFIX = "CANISTER_"  # of the variables that set something

UNIX = "unix:"  # before the path of a socket, where a URL may stand


def socket_path(url: str) -> str | None:
    """The path in `unix:PATH`; None for other URLs."""
    return url.removeprefix(UNIX) if url.startswith(UNIX) else None


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/llama-canister`, or `~/.local/share/llama-canister`."""
    return user_folder("DATA", ".local/share")


def user_folder(kind: Literal["CACHE", "CONFIG", "DATA", "STATE"], otherwise: str) -> Path:
    """`$XDG_{kind}_HOME/llama-canister`, or below this folder of the user's home."""
    return Path(os.environ.get(f"XDG_{kind}_HOME") or Path.home() / otherwise) / "llama-canister"
