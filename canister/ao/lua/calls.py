"""Calls of a program, the log that they make, and snapshots of the state that it gives.

The log is what counts. A snapshot saves running its first calls again, and can be made again from them.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from canister.ao.lua import values
from canister.ao.lua.sandbox import HERE, Limits, Outcome
from canister.errors import StoreDamaged

DEFAULT_LIMITS = Limits()
SNAPSHOT = "snapshot"
"""Kind of a call in a log: from here on the state is what came back from its own snapshot. So it is in every run."""
_BEHIND = ("natives", "databases", "values")
_LINES = re.compile(rb"(?<=s)[0-9]+:|:[0-9]+:")  # and the lengths of texts, which change with them
_DIGEST_BYTES = 16


class LogDamaged(StoreDamaged):
    """A log that does not give its program's state: a call asked the host for something else, or gave something else,
    than when it was made. Nothing is lost; the world that it was made in gives the state.
    """


@dataclass(frozen=True, slots=True)
class Call:
    """kind: `load` of a text with its name, `evaluate` of one, `call` of a function with its arguments, or SNAPSHOT.

    now_ms, seed: the time and the draws that the program sees.
    """

    kind: str
    subject: bytes
    arguments: bytes = b""
    limits: Limits = DEFAULT_LIMITS
    now_ms: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One call of a log. answers: the host's, each a word and its bytes, in the order in which they were asked for.

    digest: of what came of it, or of the state; nothing: it is not known. world: the version that it was made in.
    """

    call: Call
    answers: tuple[tuple[bytes, bytes, bytes], ...] = ()
    digest: bytes = b""
    world: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """n_calls: of the log, the last of which it is. world, digest: as in an `Entry`. data: the state, packed.

    It has bytecode in it. A cage has made it, and only a cage of the same program reads it.
    """

    n_calls: int
    world: str
    digest: bytes
    data: bytes

    @classmethod
    def of(cls, state: bytes, n_calls: int, world: str) -> Snapshot:
        return cls(n_calls, world, digest_of_state(state), zlib.compress(state, 1))

    def state(self) -> bytes | None:
        """None where the bytes are damaged."""
        try:
            state = zlib.decompress(self.data)
        except zlib.error:
            return None
        return state if digest_of_state(state) == self.digest else None


def version_of(world: Sequence[Path]) -> str:
    """Of all that decides what a program's calls come to, besides itself: the world's files and what is behind them."""
    digest = hashlib.sha256(f"{sqlite3.sqlite_version} {version('lupa')}".encode())
    for file in (*sorted(HERE.glob("*.lua")), *(HERE / f"{name}.py" for name in _BEHIND), *world):
        data = file.read_bytes()
        digest.update(b"%d " % len(data) + data)
    return digest.hexdigest()[:16]


def digest_of(outcome: Outcome) -> bytes:
    """Of what a call came to, but for how many instructions it took, and in which lines errors were raised."""
    error = None if outcome.error is None else outcome.error.encode()
    data = values.encode(list(outcome.values), error, outcome.printed)
    return hashlib.sha256(_LINES.sub(b":", data)).digest()[:_DIGEST_BYTES]


def digest_of_state(state: bytes) -> bytes:
    return hashlib.sha256(state).digest()[:_DIGEST_BYTES]
