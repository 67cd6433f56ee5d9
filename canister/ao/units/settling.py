"""What a message does when it was run: its result, the log, and all that it sends, in one transaction.

So a message that is sent is in the queue of its process when the result that sent it is there, and never twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from canister.ao.journal import messages, money, processes
from canister.ao.journal.connection import Connection
from canister.ao.journal.processes import Used
from canister.ao.lua import values
from canister.ao.lua.cage import Entry
from canister.ao.native import herder, token
from canister.ao.processes.messages import (
    Delivered,
    Incoming,
    Outgoing,
    Place,
    ProcessInfo,
    Result,
    client_tags,
    derived_id,
    tag_of,
    tags_of,
)
from canister.ao.processes.program import merge

MAX_HOPS = 1000
"""From a message of a client: what programs send each other for ever ends here."""
MAX_WAITING = 10_000
MAX_PROCESSES = 100_000
MAX_PUBLISHED_BYTES = 4 << 20
_NATIVE_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Ran:
    """A message that was run outside of the journal. entries: of the log. kept: of its model; None: as before."""

    result: Result
    entries: Sequence[Entry] = ()
    kept: bytes | None = None
    used: Used = field(default_factory=lambda: Used(0, 0))


def settle(
    connection: Connection, node: str, info: ProcessInfo, delivered: Delivered, ran: Ran, now_ms: int
) -> set[str]:
    """Processes that have something to do now. None when it was settled before."""
    lines: list[str] = []
    woken = _sent(connection, node, info, delivered, ran.result, now_ms, lines) if ran.result.error is None else set()
    result = ran.result
    if lines:
        result = replace(result, output=b"\n".join([result.output, *map(str.encode, lines)]).strip())
    if not messages.finish(connection, delivered.place, result):
        raise AlreadySettled
    processes.append_log(connection, info.id, ran.entries)
    if ran.kept is not None:
        processes.keep(connection, info.id, ran.kept, ran.used)
    if ran.result.patch:
        tree = processes.published(connection, info.id)
        merge(tree, ran.result.patch)
        if len(values.encode(tree)) <= MAX_PUBLISHED_BYTES:
            processes.publish(connection, info.id, tree)
    return woken


class AlreadySettled(Exception):
    """The message was run before; the transaction is undone."""


def run_native(connection: Connection, node: str, process: str, now_ms: int) -> set[str]:
    """Messages of a token or a herder, as far as they wait, and no more than some at once."""
    woken: set[str] = set()
    info = processes.find(connection, process)
    assert info is not None
    for _ in range(_NATIVE_AT_ONCE):
        delivered = messages.next_waiting(connection, process)
        if delivered is None:
            return woken
        woken |= settle(connection, node, info, delivered, native_result(connection, node, info, delivered), now_ms)
    return woken | {process}


def native_result(connection: Connection, node: str, info: ProcessInfo, delivered: Delivered) -> Ran:
    if info.kind == "token":
        return Ran(token.handle(money.Ledger(connection, info.id), info, delivered, node))
    found = processes.kept(connection, info.id)
    (last,) = values.decode(found) if found else (1.0,)
    before = float(last) if isinstance(last, float) else 1.0
    result, after = herder.handle(money.Desk(connection, info.id), info, delivered, node, before)
    return Ran(result, kept=values.encode(after) if after != before else None)


def make(connection: Connection, message: Incoming, sender: str, now_ms: int, hops: int = 0) -> Place | None:
    """A process by its Process message, which is in slot 0; None when it was made before."""
    if processes.find(connection, message.id) is not None:
        return None
    module = message.tag("Module") or ""
    processes.make(connection, message.id, sender, module, "lua", message.tags)
    return messages.deliver(connection, message.id, replace(message, target=message.id), sender, now_ms, hops)


def _sent(
    connection: Connection,
    node: str,
    info: ProcessInfo,
    delivered: Delivered,
    result: Result,
    now_ms: int,
    lines: list[str],
) -> set[str]:
    """lines: what is told to whoever reads the result: what did not go."""
    place, hops, woken = delivered.place, delivered.hops + 1, set[str]()
    if hops > MAX_HOPS and (result.messages or result.spawns or result.assignments):
        lines.append(f"not sent: {MAX_HOPS} messages came of one of a client's")
        return woken
    for number, outgoing in enumerate(result.messages):
        id = derived_id(place.process, place.slot, "message", number)
        _post(connection, info, outgoing.target, _message(node, info, id, outgoing), now_ms, hops, lines, woken)
    for number, outgoing in enumerate(result.spawns):
        id = derived_id(place.process, place.slot, "process", number)
        if processes.count(connection) >= MAX_PROCESSES:
            lines.append(f"not made: there are {MAX_PROCESSES} processes")
            break
        made = make(connection, _message(node, info, id, outgoing), info.id, now_ms, hops)
        if made is not None:
            woken.add(made.process)
        reference = tag_of(outgoing.tags, "Reference") or ""
        tags = tags_of(Action="Spawned", Process=id, Reference=reference, X_Reference=reference)
        told = _message(node, info, derived_id(id, "spawned"), Outgoing(info.id, b"", b"", tags))
        _post(connection, info, info.id, told, now_ms, hops, lines, woken)
    for assignment in result.assignments:
        found = messages.find(connection, assignment.message)
        if found is None:
            lines.append(f"not assigned: there is no message {assignment.message[:80]}")
            continue
        for process in assignment.processes:
            _post(connection, info, process, found, now_ms, hops, lines, woken, sender=found.owner)
    return woken


def _message(node: str, info: ProcessInfo, id: str, outgoing: Outgoing) -> Incoming:
    own = tags_of(From_Process=info.id, From_Module=info.module)
    return Incoming(id, node, outgoing.target, outgoing.data, client_tags(outgoing.tags) + own, outgoing.anchor)


def _post(
    connection: Connection,
    info: ProcessInfo,
    target: str,
    message: Incoming,
    now_ms: int,
    hops: int,
    lines: list[str],
    woken: set[str],
    sender: str | None = None,
) -> None:
    """To a process; a wallet reads results. Messages of native processes, which are about money, are never dropped."""
    if processes.find(connection, target) is None:
        return
    if info.kind == "lua" and processes.backlog(connection, target) >= MAX_WAITING:
        lines.append(f"not sent: {MAX_WAITING} messages wait for {target}")
        return
    messages.deliver(connection, target, message, info.id if sender is None else sender, now_ms, hops)
    woken.add(target)
