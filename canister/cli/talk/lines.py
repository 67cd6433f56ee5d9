"""What a person types at a terminal: lines that can be edited, several lines as one text, and a history.

A text of several lines is pasted, stands between two `\"\"\"`, or has lines that end in a backslash.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from canister.defaults import user_folder

HISTORY_ENTRIES = 1000
QUOTES = '"""'
PROMPT, MORE = "> ", ". "


def default_history() -> Path:
    """`$XDG_STATE_HOME/llama-canister/chat_history`, or below `~/.local/state`."""
    return user_folder("STATE", ".local/state") / "chat_history"


class LineEditor:
    """read: returns a line for a prompt, as `input` does. history: keeps what was typed for the next time; None: it is
    not kept.
    """

    def __init__(self, history: Path | None = None, read: Callable[[str], str] = input) -> None:
        self._read = read
        self._history = history
        _set_up_editing()
        if history is not None:
            _load(history)

    def next(self) -> str:
        """The next typed text, without the marks that hold its lines together. Raises EOFError, KeyboardInterrupt."""
        first = self._read(PROMPT)
        text = self._quoted(first) if first.lstrip().startswith(QUOTES) else self._joined(first)
        if text.strip() and self._history is not None:
            _append(self._history, text)
        return text

    def _quoted(self, first: str) -> str:
        line = first.lstrip()[len(QUOTES) :]
        lines = []
        while not line.rstrip().endswith(QUOTES):
            lines.append(line)
            line = self._read(MORE)
        lines.append(line.rstrip()[: -len(QUOTES)])
        return "\n".join(lines).strip("\n")

    def _joined(self, line: str) -> str:
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._read(MORE))
        return "\n".join(lines)


def _set_up_editing() -> None:
    with contextlib.suppress(ImportError):
        import readline  # gives input() line editing and a history

        # Python turns it off, and each pasted line would then be a question.
        if os.environ.get("TERM", "dumb") != "dumb":
            readline.parse_and_bind("set enable-bracketed-paste on")


# -- the history: an entry is a line of JSON, since it may have lines of its own


def _load(path: Path) -> None:
    try:
        import readline

        entries = path.read_text(encoding="utf-8").splitlines()
    except (ImportError, OSError, UnicodeDecodeError):
        return
    if len(entries) > 2 * HISTORY_ENTRIES:
        entries = entries[-HISTORY_ENTRIES:]
        _write(path, entries)
    for entry in entries[-HISTORY_ENTRIES:]:
        with contextlib.suppress(ValueError):
            text = json.loads(entry)
            if isinstance(text, str):
                readline.add_history(text)


def _append(path: Path, text: str) -> None:
    """What cannot be kept is forgotten: it is no reason to end a conversation."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.fchmod(file, 0o600)
            os.write(file, f"{json.dumps(text)}\n".encode())
        finally:
            os.close(file)


def _write(path: Path, entries: list[str]) -> None:
    from canister.system import atomic_file

    with contextlib.suppress(OSError):
        atomic_file.write(path, "".join(f"{entry}\n" for entry in entries).encode())
