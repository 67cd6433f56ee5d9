"""What one's own servers have found out about llama.cpp and model files, kept for the next ones.

Such a server begins with an empty data folder, and would otherwise try the same build, and try and measure the same
model, again each time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from canister.system.data_dir import TRIED

MAX_FILES = 200


def borrow(data_dir: Path) -> None:
    """Copy what is known into a data folder."""
    copy(_kept(), data_dir / TRIED)


def lend(data_dir: Path) -> None:
    """Keep what a server has added."""
    copy(data_dir / TRIED, _kept())
    for old in _newest_first(_kept())[MAX_FILES:]:
        old.unlink(missing_ok=True)


def _kept() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "llama-canister" / TRIED


def copy(source: Path, target: Path) -> None:
    """Copy files that are missing or older there. It is a cache: what cannot be copied is found out again."""
    with contextlib.suppress(OSError):
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in _newest_first(source)[:MAX_FILES]:
            there = target / path.name
            if there.exists() and there.stat().st_mtime_ns >= path.stat().st_mtime_ns:
                continue
            staged = target / f".{path.name}.{os.getpid()}"
            shutil.copy2(path, staged)
            staged.replace(there)


def _newest_first(folder: Path) -> list[Path]:
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
        return sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    except OSError:
        return []
