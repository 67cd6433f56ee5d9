"""Fence 3: each running program in a process of its own that is killed at its deadline, and its state back by its log.

The log has the calls that counted and what the host answered to them, so that the same calls give the same state
without asking the host again. A call that goes over a limit, or is killed, changes nothing: the state is made anew
without it, when it is needed next. A spare, which is a copy of the process that waits, has most of it ready. All
methods block; a server calls them on threads, one at a time for a program.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from canister.ao.lua import frames, values
from canister.ao.lua.sandbox import DEFAULT_MEMORY_BYTES, HERE, HostError, HostFunction, Limits, Outcome
from canister.ao.lua.values import BadValue, Value
from canister.errors import CanisterUnavailable, StoreDamaged

DEFAULT_DEADLINE_SECONDS = 10.0
REPLAY_SECONDS = 60.0  # a call that was within its limits once
SPARE_EVERY = 50  # calls that may have to be done again
LIMITS = ("instruction limit reached", "time limit reached", "memory limit reached")
DEFAULT_LIMITS = Limits()
ENDED = "the program's process ended"
_BEHIND = ("natives", "databases", "values")
_LINES = re.compile(rb"(?<=s)[0-9]+:|:[0-9]+:")  # and the lengths of texts, which change with them


class CagesUnavailable(CanisterUnavailable):
    """No process for a program can be started. Nothing is lost; the same call may be sent again."""


class LogDamaged(StoreDamaged):
    """A log that does not give its program's state: a call asked the host for something else, or gave something else,
    than when it was made. Nothing is lost; the world that it was made in gives the state.
    """


@dataclass(frozen=True, slots=True)
class Call:
    """kind: `load` of a text with its name, `evaluate` of one, or `call` of a function with encoded arguments.

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

    digest: of what came of it; nothing: it is not known. world: the version that it was made in.
    """

    call: Call
    answers: tuple[tuple[bytes, bytes, bytes], ...] = ()
    digest: bytes = b""
    world: str = ""


class Nursery:
    """The process that cages are forked from; started when it is needed, and again when it has ended.

    world: files of Lua that run before any program of its cages does.
    """

    def __init__(self, world: Sequence[Path] = ()) -> None:
        self._world = tuple(map(str, world))
        self.version = version_of(world)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self, memory_bytes: int) -> tuple[int, socket.socket]:
        """A new cage: the number of its process, and the socket to it. Raises CagesUnavailable."""
        ours, theirs = socket.socketpair()
        with theirs:
            for _ in range(2):
                answer = self._ask(b"start %d" % memory_bytes, [theirs.fileno()])
                if answer:
                    return int(answer), ours
        ours.close()
        raise CagesUnavailable("the process that starts programs has ended, and does not come back; see the log")

    def kill(self, pid: int) -> None:
        self._ask(b"kill %d" % pid, [])

    @property
    def pid(self) -> int | None:
        """While there is one."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """All cages end with it."""
        with self._lock:
            self._stop()

    def _ask(self, message: bytes, descriptors: Sequence[int]) -> bytes:
        """Nothing when the process has ended; the next question starts it again."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._stop()
                self._run()
            assert self._control is not None
            try:
                socket.send_fds(self._control, [message], descriptors)
                answer = self._control.recv(100)
            except OSError:
                answer = b""
            if not answer:
                self._stop()
            return answer

    def _run(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "canister.ao.lua.nursery", *self._world],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**kept, "TZ": "UTC"},
                start_new_session=True,
            )
        self._control = ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


@dataclass(slots=True)
class _Process:
    """n_done: how many calls of the log are in its state."""

    pid: int
    connection: socket.socket
    n_done: int = 0


@dataclass(slots=True)
class Cage:
    """One program. host: functions for it, by `name` or `table.name`. log: what made its state; read it after a call,
    and give it back to have the same program again."""

    nursery: Nursery
    host: Mapping[str, HostFunction] = field(default_factory=dict)
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    log: list[Entry] = field(default_factory=list)
    n_kills: int = 0
    _running: _Process | None = None
    _spare: _Process | None = None

    def load(self, source: bytes, name: str = "program") -> Outcome:
        return self.run(Call("load", source, name.encode()))

    def evaluate(self, source: bytes) -> Outcome:
        return self.run(Call("evaluate", source))

    def call(self, path: str, *arguments: Value) -> Outcome:
        return self.run(Call("call", path.encode(), values.encode(*arguments)))

    def run(self, call: Call, *, dry: bool = False, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS) -> Outcome:
        """dry: in a copy, which changes nothing. deadline_seconds: of the program alone, without what the host takes.

        Raises CagesUnavailable, LogDamaged.
        """
        running = self._ready()
        answers: list[tuple[bytes, bytes, bytes]] = []
        try:
            outcome = self._exchange(running, call, answers, None, dry, deadline_seconds)
        except TimeoutError:
            outcome = Outcome((), "time limit reached", call.limits.instructions, b"")
            self._kill()
        except frames.CageEnded:
            outcome = Outcome((), ENDED, call.limits.instructions, b"")
            self._kill()
        except BaseException:  # the host's, in the midst of a call
            self._kill()
            raise
        if dry:
            return outcome
        if outcome.error in LIMITS:
            self._kill()
        elif outcome.error != ENDED:
            self.log.append(Entry(call, tuple(answers), digest_of(outcome), self.nursery.version))
            running.n_done = len(self.log)
            if running.n_done - (self._spare.n_done if self._spare else 0) >= SPARE_EVERY:
                self._leave_spare(running)
        return outcome

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._running.pid if self._running else None

    def stop(self) -> None:
        """End the process. The next call starts one again, with the same state."""
        self._kill()
        self._drop_spare()

    def _kill(self) -> None:
        """The spare stays."""
        if self._running is not None:
            self._running.connection.close()
            self.nursery.kill(self._running.pid)
            self._running = None
            self.n_kills += 1

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.connection.close()  # it ends when it sees that
            self._spare = None

    def _leave_spare(self, running: _Process) -> None:
        """A copy of the process as it is now; without one, more calls are done again."""
        self._drop_spare()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                frames.send(running.connection, b"spare")
                socket.send_fds(running.connection, [b"s"], [theirs.fileno()])
                match frames.receive(running.connection, time.monotonic() + REPLAY_SECONDS):
                    case [b"spare", int(pid)]:
                        self._spare = _Process(pid, ours, running.n_done)
                        return
            except (TimeoutError, OSError, frames.CageEnded):
                pass
        ours.close()
        self._kill()  # what it is doing is unknown

    def _ready(self) -> _Process:
        if self._running is None:
            self._running = self._woken() or self._made()
            running = self._running
            try:
                for entry in self.log[running.n_done :]:
                    self._replay(running, entry)
            except (TimeoutError, frames.CageEnded):
                self._kill()
                raise CagesUnavailable("a program's process ended while its state was made again; try again") from None
            except LogDamaged:
                self._kill()
                raise
            if running.n_done >= SPARE_EVERY:
                self._leave_spare(running)
        return self._running or self._ready()

    def _replay(self, running: _Process, entry: Entry) -> None:
        version = self.nursery.version
        try:
            outcome = self._exchange(running, entry.call, [], list(entry.answers), False, REPLAY_SECONDS)
            if entry.world != version and entry.digest and digest_of(outcome) != entry.digest:
                raise LogDamaged("it gave something else")
        except LogDamaged as error:
            raise LogDamaged(
                f"call {running.n_done} of a program's log was made in the world {entry.world or '-'}, and is "
                f"not the same in the world {version}, which runs here: {error}. Nothing is lost: start the "
                "version of llama-canister that it was made with"
            ) from None
        running.n_done += 1

    def _woken(self) -> _Process | None:
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        try:
            frames.send(spare.connection, b"wake", self.nursery.pid)
            if frames.receive(spare.connection, time.monotonic() + REPLAY_SECONDS) == [b"awake"]:
                return spare
        except (TimeoutError, frames.CageEnded):
            pass
        spare.connection.close()
        return None

    def _made(self) -> _Process:
        made = _Process(*self.nursery.start(self.memory_bytes))
        try:
            for path in self.host:
                frames.send(made.connection, b"define", path.encode())
        except frames.CageEnded:
            made.connection.close()
            raise CagesUnavailable("a program's process ended as soon as it was started; try again") from None
        return made

    def _exchange(
        self,
        running: _Process,
        call: Call,
        answers: list[tuple[bytes, bytes, bytes]],
        known: list[tuple[bytes, bytes, bytes]] | None,
        dry: bool,
        seconds: float,
    ) -> Outcome:
        """known: the answers of a log, which are given instead of the host's."""
        connection, left = running.connection, seconds
        about = (call.limits.instructions, call.limits.seconds, call.now_ms, call.seed, dry)
        frames.send(connection, b"call", call.kind.encode(), call.subject, call.arguments, *about)
        while True:
            start = time.monotonic()
            message = frames.receive(connection, start + left)
            left -= time.monotonic() - start
            match message:
                case [b"done", bytes(result), error, int(used), bytes(printed)]:
                    return _outcome(result, error, used, printed)
                case [b"host", bytes(path), bytes(arguments)]:
                    if known is None:
                        word, answer = self._host(path.decode(errors="replace"), arguments)
                    else:
                        if not known or known[0][0] != path:
                            raise LogDamaged(f"a program asked the host for {path[:80]!r}, which its log does not have")
                        _, word, answer = known.pop(0)
                    answers.append((path, word, answer))
                    frames.send(connection, word, answer)
                case _:
                    raise frames.CageEnded("what came is no answer")

    def _host(self, path: str, arguments: bytes) -> tuple[bytes, bytes]:
        function = self.host.get(path)
        if function is None:
            return b"error", b"the host has no such function"
        try:
            return b"ok", values.encode(function(*values.decode(arguments)))
        except (HostError, BadValue) as error:
            return b"error", str(error).encode()


def version_of(world: Sequence[Path]) -> str:
    """Of all that decides what a program's calls come to, besides itself: the world's files, and those behind them."""
    digest = hashlib.sha256()
    for file in (*sorted(HERE.glob("*.lua")), *(HERE / f"{name}.py" for name in _BEHIND), *world):
        data = file.read_bytes()
        digest.update(b"%d " % len(data) + data)
    return digest.hexdigest()[:16]


def digest_of(outcome: Outcome) -> bytes:
    """Of what a call came to, but for how many instructions it took, and in which lines errors were raised."""
    error = None if outcome.error is None else outcome.error.encode()
    data = values.encode(list(outcome.values), error, outcome.printed)
    return hashlib.sha256(_LINES.sub(b":", data)).digest()[:16]


def _outcome(result: bytes, error: Value, used: int, printed: bytes) -> Outcome:
    try:
        found = tuple(values.decode(result))
    except BadValue:
        raise frames.CageEnded("what came are no values") from None
    text = error.decode(errors="replace") if isinstance(error, bytes) else None
    return Outcome(found, text, used, printed)
