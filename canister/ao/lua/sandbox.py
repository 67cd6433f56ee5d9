"""A Lua 5.3 state for hostile programs: no way out to Python or the system, metered steps, bounded memory.

Fences 1 and 2 of three. A few functions of C can still take long at once, so a server runs this in a child process that
it can kill (`cage.py`). Only bytes cross between Lua and Python here; `values.py` gives them their meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from canister.ao.lua import values
from canister.ao.lua.values import Value

DEFAULT_MEMORY_BYTES = 64 << 20
DEFAULT_INSTRUCTIONS = 50_000_000
DEFAULT_SECONDS = 5.0  # of CPU
_SHOWN_CHARACTERS = 2000
_N_PARTS = 4  # of a snapshot, besides what is in Python
HERE = Path(__file__).parent

HostFunction = Callable[..., Value]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one call of a program. seconds: of CPU."""

    instructions: int = DEFAULT_INSTRUCTIONS
    seconds: float = DEFAULT_SECONDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """error: what ended the call, None when it returned. used: instructions. printed: what it wrote."""

    values: tuple[Value, ...]
    error: str | None
    used: int
    printed: bytes


class HostError(Exception):
    """A host function's refusal, which the program gets as an error's text."""


class NotKept(Exception):
    """Why a state cannot be written down, or does not come back from its bytes."""


class Beside(Protocol):
    """What a state has in Python, and a snapshot has too."""

    def save(self) -> Value:
        """Raises NotKept."""

    def restore(self, value: Value) -> None:
        """Raises NotKept."""


class Sandbox:
    """One program's state, of one thread. Every method may be given what comes from anybody."""

    def __init__(self, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        import lupa.lua53

        self.now_ms = 0
        self.beside: Beside | None = None
        self._memory_bytes = memory_bytes
        self._errors: tuple[type[BaseException], ...] = (lupa.lua53.LuaError, MemoryError)
        self._lua = lupa.lua53.LuaRuntime(
            encoding=None,
            source_encoding=None,
            register_eval=False,
            register_builtins=False,
            attribute_filter=_denied,
            unpack_returned_tuples=True,
            max_memory=memory_bytes,
        )
        meter, patterns = self._part("meter"), self._part("patterns")
        library = self._part("library", meter, patterns)
        self._guard: Any = self._part("world", meter, library, self._part("snapshot", library))

    def _part(self, name: str, *needed: object) -> object:
        return self._lua.execute((HERE / f"{name}.lua").read_bytes(), *needed, name=b"=host")

    def define(self, path: str, function: HostFunction, price: int = 10) -> None:
        """A function of the host's for the program, as `name` or `table.name`. It is called with plain values.
        price: instructions that each call counts as.

        What it raises as HostError or BadValue is the program's error; anything else ends the call, and is told to
        nobody but the host.
        """

        def call(arguments: bytes) -> tuple[bool, bytes]:
            try:
                return True, values.encode(function(*values.decode(arguments)))
            except (HostError, values.BadValue) as error:
                return False, str(error).encode()
            except Exception:
                return False, b"the host failed"

        self._guard[b"define"](path.encode(), call, price)

    def load(self, source: bytes, name: str = "program", limits: Limits = Limits()) -> Outcome:
        """Run a program's text. Its syntax errors are outcomes too."""
        try:
            made = self._guard[b"compile"](source, f"={name}".encode())
        except self._errors as error:
            return Outcome((), _told(error), 0, b"")
        function, message = made if isinstance(made, tuple) else (made, b"")
        if function is None:
            return Outcome((), message.decode(errors="replace")[:_SHOWN_CHARACTERS], 0, b"")
        return self._run(function, limits, b"")

    def evaluate(self, source: bytes, limits: Limits = Limits()) -> Outcome:
        """An expression, or statements: as a console takes them."""
        return self._run(self._guard[b"evaluate"](source, b"=eval"), limits, b"")

    def call(self, path: str, *arguments: Value, limits: Limits = Limits()) -> Outcome:
        """A function of the program's, by `name` or `table.name`."""
        function = self._guard[b"find"](path.encode())
        if function is None:
            return Outcome((), f"the program has no function {path}", 0, b"")
        return self._run(function, limits, values.encode(*arguments))

    def at(self, milliseconds: int) -> None:
        """The time that the program sees, until it is told another."""
        self.now_ms = milliseconds
        self._guard[b"at"](milliseconds)

    def seed(self, number: int) -> None:
        """What `math.random` draws from now on. number: 63 bits."""
        self._guard[b"seed"](number)

    def begin(self) -> None:
        """Whatever is here now is the world: snapshots tell what differs from it. Once, before a program runs."""
        self._guard[b"begin"]()

    def save(self) -> bytes:
        """A snapshot. Raises NotKept."""
        parts: list[list[bytes]] = [[] for _ in range(_N_PARTS)]
        with self._unbounded():
            made = self._guard[b"save"](lambda part, data: parts[part - 1].append(data))
        if made is not True:
            raise NotKept(made[1].decode(errors="replace")[:_SHOWN_CHARACTERS])
        beside = None if self.beside is None else self.beside.save()
        return values.encode(*(b"".join(part) for part in parts), beside)

    def restore(self, snapshot: bytes) -> None:
        """The state of a snapshot, in a new state with the same world. Raises NotKept; the state is spoiled then."""
        try:
            *parts, beside = values.decode(snapshot)
        except (ValueError, values.BadValue):
            raise NotKept("these bytes are no snapshot") from None
        if len(parts) != _N_PARTS or not all(isinstance(part, bytes) for part in parts):
            raise NotKept("these bytes are no snapshot")
        with self._unbounded():
            made = self._guard[b"restore"](*parts)
        if made is not True:
            raise NotKept(made[1].decode(errors="replace")[:_SHOWN_CHARACTERS])
        if self.beside is not None:
            self.beside.restore(beside)

    @contextmanager
    def _unbounded(self) -> Iterator[None]:
        """Memory of this state's own work is not the program's."""
        self._lua.set_max_memory(0)
        try:
            yield
        except self._errors as error:
            raise NotKept(_told(error)) from None
        finally:
            self._lua.set_max_memory(self._memory_bytes)

    def limit_memory(self, memory_bytes: int) -> None:
        """Another bound than it was made with."""
        self._memory_bytes = memory_bytes
        self._lua.set_max_memory(memory_bytes)

    @property
    def memory_bytes(self) -> int:
        return int(self._lua.get_memory_used())

    def _run(self, function: object, limits: Limits, arguments: bytes) -> Outcome:
        try:
            ok, result, used, printed = self._guard[b"run"](limits.instructions, limits.seconds, function, arguments)
        except self._errors as error:
            return Outcome((), _told(error), limits.instructions, b"")
        if not ok:
            return Outcome((), result.decode(errors="replace")[:_SHOWN_CHARACTERS], int(used), printed)
        try:
            return Outcome(tuple(values.decode(result)), None, int(used), printed)
        except values.BadValue as error:
            return Outcome((), str(error), int(used), printed)


def _denied(_object: object, _name: object, _is_setting: bool) -> object:
    raise AttributeError("nothing of the host is here")


def _told(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "not enough memory" in str(error):
        return "memory limit reached"
    return str(error)[:_SHOWN_CHARACTERS]
