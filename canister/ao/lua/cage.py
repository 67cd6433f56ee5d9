"""Fence 3: each running program in a process of its own that is killed at its deadline, and its state back by its log.

The log has the calls that counted and what the host answered to them, so that the same calls give the same state
without asking the host again. A call that goes over a limit, or is killed, changes nothing: the state is made anew
without it, when it is needed next. A spare, which is a copy of the process that waits, has most of it ready.

A long log is not run again as a whole: now and then the state is written down, and goes on as what comes back from
these bytes. That is a call of the log too, so a run of the whole log does the same at the same place. So the state
does not depend on whether the snapshot is there, down to what Lua leaves open, as the length of a list with holes. All
methods block; a server calls them on threads, one at a time for a program.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from canister.ao.lua import frames, values
from canister.ao.lua.calls import SNAPSHOT, Call, Entry, LogDamaged, Snapshot, digest_of, digest_of_state
from canister.ao.lua.keeper import CagesUnavailable, Nursery
from canister.ao.lua.sandbox import DEFAULT_MEMORY_BYTES, HostError, HostFunction, Limits, NotKept, Outcome
from canister.ao.lua.values import BadValue, Value

DEFAULT_DEADLINE_SECONDS = 10.0
REPLAY_SECONDS = 60.0  # a call that was within its limits once, on a machine that may have been faster
SPARE_EVERY = 50  # calls that may have to be done again
SNAPSHOT_EVERY = 100  # calls
SNAPSHOT_INSTRUCTIONS = 500_000_000  # of calls, if they come sooner
SNAPSHOT_BYTES = 16 << 10  # that each call may add to what is written
SAVE_SECONDS = 30.0
OUT_OF_TIME = "time limit reached"
LIMITS = ("instruction limit reached", OUT_OF_TIME, "memory limit reached")
ENDED = "the program's process ended"
OTHER_VERSION = "Nothing is lost: start the version of llama-canister that it was made with"
BACKUP = "What it was is in its last snapshot: a backup of AO's database has it"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Process:
    """n_done: how many calls of the log are in its state."""

    pid: int
    connection: socket.socket
    n_done: int = 0


@dataclass(slots=True)
class Cage:
    """One program. host: functions for it, by `name` or `table.name`. log: what made its state; read it after a call,
    and give it back to have the same program again. snapshot: the last one of the log, which may be given back too.

    n_earlier: how many calls the log has before `log`, which a snapshot makes needless. earlier: reads them if they are
    needed all the same. snapshot_every: so many calls; 0: never.
    """

    nursery: Nursery
    host: Mapping[str, HostFunction] = field(default_factory=dict)
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    log: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None
    n_earlier: int = 0
    earlier: Callable[[], list[Entry]] = list
    snapshot_every: int = SNAPSHOT_EVERY
    _running: _Process | None = None
    _spare: _Process | None = None
    _n_since: int = 0  # calls since the last snapshot, or since one was not kept
    _n_used: int = 0  # instructions of these
    _n_due: int = 0  # calls until the next one
    _n_counted: int = 0  # of the log, the last call that is in these counts

    @property
    def n_calls(self) -> int:
        """Of the whole log."""
        return self.n_earlier + len(self.log)

    def since(self, n_calls: int) -> Sequence[Entry]:
        """What the log has after so many calls."""
        return tuple(self.log[n_calls - self.n_earlier :])

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
            outcome = Outcome((), OUT_OF_TIME, call.limits.instructions, b"")
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
            running.n_done = self.n_calls
            self._count(running, outcome)
            if self._is_due():
                self._take_snapshot(running)
            elif self._n_again(running) >= SPARE_EVERY:
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
            self._end(self._running)
            self._running = None

    def _end(self, process: _Process) -> None:
        process.connection.close()
        self.nursery.kill(process.pid)

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
            try:
                for entry in self.log[self._running.n_done - self.n_earlier :]:
                    self._replay(self._running, entry)
            except (TimeoutError, frames.CageEnded) as error:
                self._kill()
                what = "It took too long" if isinstance(error, TimeoutError) else "Its process ended"
                raise CagesUnavailable(f"a program's state was being made again. {what}; try again") from None
            except (LogDamaged, CagesUnavailable):
                self._kill()
                raise
            if self._n_again(self._running) >= SPARE_EVERY:
                self._leave_spare(self._running)
        return self._running or self._ready()

    def _n_again(self, running: _Process) -> int:
        """Calls that would have to be done again if this process ended now."""
        spared = self._spare.n_done if self._spare else 0
        return running.n_done - max(spared, self.snapshot.n_calls if self.snapshot else 0)

    def _replay(self, running: _Process, entry: Entry) -> None:
        version = self.nursery.version
        try:
            if entry.call.kind == SNAPSHOT:
                self._come_back(running, entry)
                return
            again = replace(entry.call, limits=Limits(2 * entry.call.limits.instructions, REPLAY_SECONDS))
            outcome = self._exchange(running, again, [], list(entry.answers), False, REPLAY_SECONDS)
            if outcome.error == OUT_OF_TIME:
                raise TimeoutError
            if entry.world != version and entry.digest and digest_of(outcome) != entry.digest:
                raise LogDamaged("it gave something else")
        except LogDamaged as error:
            place = f"call {running.n_done} of a program's log"
            if entry.world == version:
                raise LogDamaged(f"{place} is not the same when it is run again: {error}. {BACKUP}") from None
            raise LogDamaged(
                f"{place} was made in the world {entry.world or '-'}, and is not the same in the world {version}, "
                f"which runs here: {error}. {OTHER_VERSION}"
            ) from None
        running.n_done += 1
        self._count(running, outcome)

    # -- snapshots

    def _count(self, running: _Process, outcome: Outcome) -> None:
        """A call that is run again counts once: else a state that is not kept would be tried again after each kill."""
        if running.n_done > self._n_counted:
            self._n_counted = running.n_done
            self._n_since += 1
            self._n_used += outcome.used

    def _is_due(self) -> bool:
        is_due = self._n_since >= max(self.snapshot_every, self._n_due) or self._n_used >= SNAPSHOT_INSTRUCTIONS
        return self.snapshot_every > 0 and is_due

    def _take_snapshot(self, running: _Process) -> None:
        """The state is written down, and goes on as what comes back. Where it cannot be kept, it goes on as it is."""
        n_since, is_costly = self._n_since, self._n_used >= SNAPSHOT_INSTRUCTIONS
        self._n_since = self._n_used = self._n_due = 0
        try:
            state = self._saved(running, SAVE_SECONDS)
            self._n_due = len(state) // SNAPSHOT_BYTES
            if n_since < self._n_due and not is_costly:
                self._n_since = n_since
                return
            fresh = self._restored(state, running.n_done + 1, SAVE_SECONDS, self.memory_bytes)
        except NotKept as error:
            _log.debug("a program's state is not kept: %s", error)
        except CagesUnavailable:
            pass
        except (TimeoutError, frames.CageEnded):
            self._kill()  # what it is doing is unknown
        else:
            self._go_on(fresh, state)
            self.log.append(Entry(Call(SNAPSHOT, b""), (), digest_of_state(state), self.nursery.version))

    def _come_back(self, running: _Process, entry: Entry) -> None:
        """As `_take_snapshot` did. In another world the bytes differ; there each call's outcome is compared."""
        is_same_world = entry.world == self.nursery.version
        try:
            state = self._saved(running, REPLAY_SECONDS)
            if is_same_world and digest_of_state(state) != entry.digest:
                raise LogDamaged("the calls before it give another state")
            fresh = self._restored(state, running.n_done + 1, REPLAY_SECONDS)
        except NotKept as error:
            if is_same_world:
                raise LogDamaged(str(error)) from None
            running.n_done += 1
        else:
            self._go_on(fresh, state)

    def _go_on(self, fresh: _Process, state: bytes) -> None:
        """The state in another process, which is this one's state as it came back."""
        if self._running is not None:
            self._end(self._running)
        self._drop_spare()
        self._running = fresh
        self.snapshot = Snapshot.of(state, fresh.n_done, self.nursery.version)
        self._n_since = self._n_used = 0
        self._n_counted = fresh.n_done

    def _saved(self, running: _Process, seconds: float) -> bytes:
        """Raises NotKept, TimeoutError, CageEnded."""
        frames.send(running.connection, b"save")
        match frames.receive(running.connection, time.monotonic() + seconds):
            case [b"saved", bytes(state)]:
                return state
            case [b"not kept", bytes(why)]:
                raise NotKept(why.decode(errors="replace"))
        raise frames.CageEnded("what came is no answer")

    def _restored(self, state: bytes, n_done: int, seconds: float, most_bytes: int | None = None) -> _Process:
        """most_bytes: of memory that it may take. Raises NotKept; CagesUnavailable: another time it may come back."""
        made = self._started()
        try:
            frames.send(made.connection, b"restore", state)
            told = frames.receive(made.connection, time.monotonic() + seconds)
        except (TimeoutError, frames.CageEnded):
            self._end(made)
            raise CagesUnavailable("a program's state takes too long to come back from a snapshot; try again") from None
        match told:
            case [b"restored", int(n_bytes)] if most_bytes is None or n_bytes <= most_bytes:
                made.n_done = n_done
                return made
            case [b"restored", int(n_bytes)]:  # functions of one text each have their own afterwards
                told = [f"it would take {n_bytes} bytes of memory, and may take {most_bytes}"]
        self._end(made)
        raise NotKept(f"it does not come back: {told[-1]!r}"[:500])

    def _from_snapshot(self) -> _Process | None:
        """None where there is none of this world, or it does not fit the log."""
        snapshot = self.snapshot
        if snapshot is None:
            return None
        place = snapshot.n_calls - 1 - self.n_earlier
        entry = self.log[place] if 0 <= place < len(self.log) else None
        if entry is not None and entry.call.kind == SNAPSHOT and snapshot.world == self.nursery.version:
            state = snapshot.state()
            is_of_log = entry.world != snapshot.world or entry.digest == snapshot.digest
            if state is not None and is_of_log:
                try:
                    return self._restored(state, snapshot.n_calls, REPLAY_SECONDS)
                except NotKept as error:
                    _log.warning("a program's snapshot %s", error)
            else:
                _log.warning("a program's snapshot is damaged; its log is run again")
        self.snapshot = None
        return None

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
        found = self._from_snapshot()
        if found is None:
            found = self._started()
            if self.n_earlier:
                self.log[:0] = self.earlier()
                self.n_earlier = 0
        return found

    def _started(self) -> _Process:
        """A process in which nothing has run."""
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


def _outcome(result: bytes, error: Value, used: int, printed: bytes) -> Outcome:
    try:
        found = tuple(values.decode(result))
    except BadValue:
        raise frames.CageEnded("what came are no values") from None
    text = error.decode(errors="replace") if isinstance(error, bytes) else None
    return Outcome(found, text, used, printed)
