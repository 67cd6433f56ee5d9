"""A process that is a Lua program: messages in, results out. Its state is what the calls of its log make of the world.

Blocks, and is used by one thread at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from canister.ao.encoding import sha256
from canister.ao.lua import values
from canister.ao.lua.cage import SNAPSHOT_EVERY, Cage
from canister.ao.lua.calls import Call, Entry, Snapshot
from canister.ao.lua.keeper import Nursery
from canister.ao.lua.sandbox import HostError, HostFunction, Limits, Outcome
from canister.ao.lua.values import Value
from canister.ao.processes.messages import (
    Assignment,
    Delivered,
    Outgoing,
    ProcessInfo,
    Result,
    shown_text,
)
from canister.ao.processes.talk import Talk
from canister.ao.signing.tags import Tag

BLOCK_SECONDS = 120
MAX_SENT = 500  # messages of one result, and those that it assigns
MAX_SPAWNED = 20
MAX_SENT_BYTES = 16 << 20
MAX_OUTPUT_BYTES = 1 << 20
_HERE = Path(__file__).parent / "world"
WORLD = tuple(_HERE / f"{name}.lua" for name in ("modules", "handlers", "ao", "process", "llama", "sqlite", "last"))
_CANISTER = Path(__file__).parents[2]
_SHIPPED = (_CANISTER / "shipped" / "ao" / "packages", _CANISTER.parent / "samples" / "ao" / "packages")
"""Of a wheel, of a checkout."""
_PACKAGE = re.compile(r"(@[A-Za-z0-9_.-]{1,60}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}")

PackageReader = Callable[[str], bytes]


def package_reader(folder: Path | None) -> PackageReader:
    """Packages of an operator, and behind them those that are shipped: `NAME.lua`, or `NAME/init.lua`."""
    folders = [*([folder] if folder is not None else []), *_SHIPPED]

    def read(name: str) -> bytes:
        if _PACKAGE.fullmatch(name) and ".." not in name:
            for place in folders:
                for path in (place / f"{name}.lua", place / name / "init.lua"):
                    if path.is_file():
                        return path.read_bytes()
        raise HostError(f"there is no package {name[:80]} here; the operator's folder of packages has those that are")

    return read


@dataclass(frozen=True, slots=True)
class History:
    """What made a program's state: its log, or a snapshot with the log from there on, and how the rest is read.

    n_earlier: calls before `log`.
    """

    log: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None
    n_earlier: int = 0
    earlier: Callable[[], list[Entry]] = list


class Program:
    """history: what made its state so far. snapshot_every: so many calls; 0: never."""

    def __init__(
        self,
        nursery: Nursery,
        info: ProcessInfo,
        node: str,
        talk: Talk,
        packages: PackageReader,
        history: History,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self._info, self._node, self.talk = info, node, talk
        host: dict[str, HostFunction] = {
            "__host.llama": talk.ask,
            "__host.package": lambda name: packages(shown_text(_bytes(name))),
        }
        self._cage = Cage(
            nursery,
            host,
            log=history.log,
            snapshot=history.snapshot,
            n_earlier=history.n_earlier,
            earlier=history.earlier,
            snapshot_every=snapshot_every,
        )
        self._known_snapshot = history.snapshot

    @property
    def n_calls(self) -> int:
        """Of its log."""
        return self._cage.n_calls

    def since(self, n_calls: int) -> Sequence[Entry]:
        """What its log has after so many calls, which is to be kept."""
        return self._cage.since(n_calls)

    def new_snapshot(self) -> Snapshot | None:
        """Once for each: it is to be kept too."""
        snapshot = self._cage.snapshot
        if snapshot is self._known_snapshot:
            return None
        self._known_snapshot = snapshot
        return snapshot

    @property
    def is_running(self) -> bool:
        return self._cage.pid is not None

    def handle(self, delivered: Delivered, limits: Limits, boot: bytes | None = None, *, dry: bool = False) -> Result:
        """A message; the one in slot 0 makes the process, and runs `boot`. Raises CagesUnavailable, LogDamaged.

        One that goes over its limits changes nothing, and neither does a dry run.
        """
        given = _table(delivered, self._info)
        if delivered.place.slot == 0 and not dry:
            path, arguments = b"__ao.boot", values.encode(self._about(), boot, given)
        else:
            path, arguments = b"__ao.handle", values.encode(given)
        seed = int.from_bytes(sha256(f"{self._info.id} {delivered.place.slot}".encode())[:8], "little") >> 1
        call = Call("call", path, arguments, limits, delivered.timestamp_ms, seed)
        kept, n_calls = self.talk.kept, self._cage.n_calls
        self.talk.begin(is_dry=dry)
        outcome = self._cage.run(call, dry=dry)
        if self._cage.n_calls == n_calls:
            self.talk.kept = kept
        return result_of(outcome)

    def stop(self) -> None:
        """End its process of the system; the next message starts one again."""
        self._cage.stop()

    def _about(self) -> Value:
        info = self._info
        return {
            b"Id": info.id.encode(),
            b"Owner": info.owner.encode(),
            b"Module": info.module.encode(),
            b"Node": self._node.encode(),
            b"Tags": _tags(info.tags),
        }


def _table(delivered: Delivered, info: ProcessInfo) -> Value:
    message = delivered.message
    return {
        b"Id": message.id.encode(),
        b"From": delivered.sender.encode(),
        b"Owner": message.owner.encode(),
        b"Target": message.target.encode(),  # of another process, or nobody's, where somebody has assigned it
        b"Data": message.data,
        b"Anchor": message.anchor,
        b"Tags": _tags(message.tags),
        b"Timestamp": delivered.timestamp_ms,
        b"Block-Height": delivered.timestamp_ms // 1000 // BLOCK_SECONDS,
        b"Nonce": delivered.place.slot,
        b"Epoch": 0,
        b"Module": info.module.encode(),
    }


def _tags(tags: Sequence[Tag]) -> Value:
    return [{b"name": name, b"value": value} for name, value in tags]


def result_of(outcome: Outcome) -> Result:
    """What the world gives for a message, whatever a program has made of it."""
    found = outcome.values[0] if outcome.values else None
    if outcome.error is not None or not isinstance(found, Mapping):
        return Result(error=outcome.error or "the process gave no result", gas_used=outcome.used)
    if (error := found.get(b"Error")) is not None:
        return Result(error=shown_text(_bytes(error)), gas_used=outcome.used)
    output = found.get(b"Output")
    output = output if isinstance(output, Mapping) else {}
    data, is_value = _bytes(output.get(b"data")), output.get(b"is_value") is True
    printed = outcome.printed
    if printed and not data:
        printed = printed.removesuffix(b"\n")
    patch: dict[bytes | int | float, Value] = {}
    for each in _each(found.get(b"Patches")):
        if isinstance(each, Mapping):
            merge(patch, each)
    messages = tuple(_outgoing(each) for each in _each(found.get(b"Messages")))
    spawns = tuple(_outgoing(each) for each in _each(found.get(b"Spawns")))
    assigned = tuple(_assignment(each) for each in _each(found.get(b"Assignments")))
    n_sent = len(messages) + sum(len(each.processes) for each in assigned) + len(assigned)
    n_bytes = sum(len(each.target) + len(each.data) + sum(map(len, sum(each.tags, ()))) for each in messages + spawns)
    if n_sent > MAX_SENT or len(spawns) > MAX_SPAWNED or n_bytes > MAX_SENT_BYTES:
        told = f"{MAX_SENT} messages, {MAX_SPAWNED} processes, {MAX_SENT_BYTES} bytes"
        return Result(error=f"too much is sent at once; at most {told}", gas_used=outcome.used)
    return Result(
        (printed + data)[:MAX_OUTPUT_BYTES],
        _bytes(output.get(b"prompt")),
        bool(printed) and not is_value,
        messages,
        spawns,
        assigned,
        None,
        outcome.used,
        patch,
    )


def merge(tree: dict[bytes | int | float, Value], given: Mapping[bytes | int | float, Value]) -> None:
    """Tables become part of tables with their name; anything else takes the place of what was there."""
    for key, value in given.items():
        known = tree.get(key)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            inner = dict(known)
            merge(inner, value)
            tree[key] = inner
        else:
            tree[key] = value


def _outgoing(value: Value) -> Outgoing:
    if not isinstance(value, Mapping):
        return Outgoing("")
    tags = tuple(
        (_bytes(tag.get(b"name")), _bytes(tag.get(b"value")))
        for tag in _each(value.get(b"Tags"))
        if isinstance(tag, Mapping)
    )
    target = shown_text(_bytes(value.get(b"Target")))
    return Outgoing(target, _bytes(value.get(b"Data")), _bytes(value.get(b"Anchor")), tags)


def _assignment(value: Value) -> Assignment:
    if not isinstance(value, Mapping):
        return Assignment((), "")
    processes = tuple(shown_text(_bytes(each)) for each in _each(value.get(b"Processes")))
    return Assignment(processes, shown_text(_bytes(value.get(b"Message"))))


def _each(value: Value) -> Sequence[Value]:
    if isinstance(value, Mapping):
        return [value[key] for key in sorted(key for key in value if isinstance(key, int))]
    return value if isinstance(value, Sequence) and not isinstance(value, bytes) else ()


def _bytes(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, Mapping | Sequence):
        return b""
    return str(value).encode()
