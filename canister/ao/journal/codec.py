"""Calls of a program's log as bytes."""

from __future__ import annotations

from canister.ao.lua import values
from canister.ao.lua.calls import Call, Entry
from canister.ao.lua.sandbox import Limits
from canister.ao.lua.values import BadValue, Value


def pack_entry(entry: Entry) -> bytes:
    call = entry.call
    answers: list[Value] = [[path, word, answer] for path, word, answer in entry.answers]
    limits = (call.limits.instructions, call.limits.seconds)
    about = (call.kind.encode(), call.subject, call.arguments, *limits, call.now_ms, call.seed, answers)
    return values.encode(*about, entry.digest, entry.world.encode())


def unpack_entry(data: bytes) -> Entry:
    """Raises BadValue for other bytes than `pack_entry` makes."""
    match values.decode(data):
        case [
            bytes(kind),
            bytes(subject),
            bytes(arguments),
            int(instructions),
            int() | float() as seconds,
            int(now_ms),
            int(seed),
            list(answers),
            *more,
        ]:
            call = Call(kind.decode(), subject, arguments, Limits(instructions, float(seconds)), now_ms, seed)
            match more:
                case []:  # of a log of before
                    return Entry(call, tuple(_answer(each) for each in answers))
                case [bytes(digest), bytes(world)]:
                    return Entry(call, tuple(_answer(each) for each in answers), digest, world.decode())
    raise BadValue("a call in a process's log is damaged")


def _answer(value: Value) -> tuple[bytes, bytes, bytes]:
    match value:
        case [bytes(path), bytes(word), bytes(answer)]:
            return path, word, answer
    raise BadValue("a call in a process's log is damaged")
