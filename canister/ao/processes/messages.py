"""Messages to processes, and what comes of them. Ids and addresses are text; what programs see is bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from canister.ao.encoding import sha256, to_base64url
from canister.ao.lua import values
from canister.ao.lua.values import BadValue, Value
from canister.ao.signing.tags import Tag

ProcessKind = Literal["lua", "token", "herder", "worker"]
OFFSPRING = 10_000
"""Messages that may come of one of a client's: what programs send each other for ever ends there."""
FORGEABLE = (b"from-process", b"from-module", b"pushed-for")
"""Tags that only this node sets: whoever could would speak for another process."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that was verified, or an unsigned one of a dry run. owner: the address of who signed it.

    target: a process; nothing for one that is to be made.
    """

    id: str
    owner: str
    target: str
    data: bytes = b""
    tags: tuple[Tag, ...] = ()
    anchor: bytes = b""

    def tag(self, name: str) -> str | None:
        return tag_of(self.tags, name)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message, or a process to make, that a process has asked for."""

    target: str
    data: bytes = b""
    anchor: bytes = b""
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """A message that other processes are to get as well."""

    processes: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a message. prints: whether a console shows the output. patch: what the process publishes.

    With an error nothing is sent. gas_used: Lua instructions. receipts: ids of the receipts of the calls that its model
    has answered.
    """

    output: bytes = b""
    prompt: bytes = b""
    prints: bool = False
    messages: tuple[Outgoing, ...] = ()
    spawns: tuple[Outgoing, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    error: str | None = None
    gas_used: int = 0
    patch: Mapping[bytes | int | float, Value] = field(default_factory=dict)
    receipts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """As clients of compute units know it."""
        shown: dict[str, object] = {
            "Output": {"data": shown_text(self.output), "prompt": shown_text(self.prompt), "print": self.prints},
            "Messages": [_outgoing_json(message) for message in self.messages],
            "Spawns": [_outgoing_json(message) for message in self.spawns],
            "Assignments": [{"Processes": list(each.processes), "Message": each.message} for each in self.assignments],
            "GasUsed": self.gas_used,
        }
        if self.receipts:
            shown["Receipts"] = list(self.receipts)
        if self.error is not None:
            shown["Error"] = self.error
        return shown


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message stands: slots of a process count from 0, which made it. message: its id."""

    process: str
    slot: int
    message: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message in its place. sender: `From`, which is the owner, or the process that sent it. offspring: how many
    messages may come of it, in all."""

    place: Place
    message: Incoming
    sender: str
    timestamp_ms: int
    offspring: int = OFFSPRING

    @property
    def is_assigned(self) -> bool:
        """It is for another process: whoever sent it has not asked this one for anything."""
        return self.message.target != self.place.process


@dataclass(frozen=True, slots=True)
class Done:
    place: Place
    timestamp_ms: int
    result: Result


@dataclass(frozen=True, slots=True)
class Page:
    done: tuple[Done, ...]
    has_next: bool


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """n_slots: messages that it got so far."""

    id: str
    owner: str
    module: str
    tags: tuple[Tag, ...]
    kind: ProcessKind
    n_slots: int
    is_monitored: bool

    def tag(self, name: str) -> str | None:
        return tag_of(self.tags, name)


def tag_of(tags: Iterable[Tag], name: str) -> str | None:
    """The first of a name, in any case."""
    wanted = name.lower().encode()
    return next((shown_text(value) for key, value in tags if key.lower() == wanted), None)


def shown_text(data: bytes) -> str:
    """For JSON, which has no bytes."""
    return data.decode("utf-8", "replace")


def tags_of(**named: str | int) -> tuple[Tag, ...]:
    """Tags by names, in which `_` stands for `-`."""
    return tuple((name.replace("_", "-").encode(), str(value).encode()) for name, value in named.items())


def derived_id(*parts: str | int) -> str:
    """An id for what a process makes: the same parts give the same id, so that nothing is made twice."""
    return to_base64url(sha256("\0".join(["ao", *map(str, parts)]).encode()))


def client_tags(tags: Iterable[Tag]) -> tuple[Tag, ...]:
    """Tags of a client, without those that only this node sets."""
    return tuple(tag for tag in tags if tag[0].lower() not in FORGEABLE)


def _outgoing_json(message: Outgoing) -> dict[str, object]:
    return {
        "Target": message.target,
        "Data": shown_text(message.data),
        "Anchor": shown_text(message.anchor),
        "Tags": [{"name": shown_text(name), "value": shown_text(value)} for name, value in message.tags],
    }


# -- as bytes, for a journal


def pack_tags(tags: Sequence[Tag]) -> bytes:
    return values.encode([[name, value] for name, value in tags])


def unpack_tags(data: bytes) -> tuple[Tag, ...]:
    (found,) = values.decode(data)
    return tuple((_bytes(name), _bytes(value)) for name, value in map(_list, _list(found)))


def pack_result(result: Result) -> bytes:
    return values.encode(
        result.output,
        result.prompt,
        result.prints,
        [_packed(each) for each in result.messages],
        [_packed(each) for each in result.spawns],
        [[[p.encode() for p in each.processes], each.message.encode()] for each in result.assignments],
        None if result.error is None else result.error.encode(errors="replace"),
        result.gas_used,
        [receipt.encode() for receipt in result.receipts],
    )


def unpack_result(data: bytes) -> Result:
    output, prompt, prints, messages, spawns, assignments, error, gas, *more = values.decode(data)
    return Result(
        _bytes(output),
        _bytes(prompt),
        bool(prints),
        tuple(_unpacked(each) for each in _list(messages)),
        tuple(_unpacked(each) for each in _list(spawns)),
        tuple(
            Assignment(tuple(_bytes(p).decode() for p in _list(processes)), _bytes(message).decode())
            for processes, message in map(_list, _list(assignments))
        ),
        None if error is None else _bytes(error).decode(),
        gas if isinstance(gas, int) else 0,
        receipts=tuple(_bytes(receipt).decode() for receipt in _list(more[0])) if more else (),
    )


def _packed(message: Outgoing) -> Value:
    tags: list[Value] = [[name, value] for name, value in message.tags]
    return [message.target.encode(), message.data, message.anchor, tags]


def _unpacked(value: Value) -> Outgoing:
    target, data, anchor, tags = _list(value)
    found = tuple((_bytes(name), _bytes(text)) for name, text in map(_list, _list(tags)))
    return Outgoing(_bytes(target).decode(), _bytes(data), _bytes(anchor), found)


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise BadValue("a journal has a value where a text should be")
    return value


def _list(value: Value) -> Sequence[Value]:
    if isinstance(value, bytes) or not isinstance(value, Sequence):
        raise BadValue("a journal has a value where a list should be")
    return value
