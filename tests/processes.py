"""What Linux tells of processes, any of which may end while one looks."""

from __future__ import annotations

from pathlib import Path


def is_there(pid: int) -> bool:
    """Does the process run (a zombie does not)?"""
    state = text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return bool(state) and state[0] != "Z"


def text_of(path: Path) -> str:
    """A text of /proc, empty where what it is about has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
