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
from canister.ao.lua.calls import Entry, Snapshot
from canister.ao.native import herder, token
from canister.ao.native.answers import NOT_TAKEN
from canister.ao.processes.messages import (
    OFFSPRING,
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

MAX_WAITING = 10_000
MAX_PROCESSES = 100_000
OFFSPRING_BYTES = 64 << 10
MAX_PUBLISHED_BYTES = 4 << 20
_NATIVE_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Ran:
    """A message that was run outside of the journal. entries: of the log. kept: of its model; None: as before."""

    result: Result
    entries: Sequence[Entry] = ()
    kept: bytes | None = None
    used: Used = field(default_factory=lambda: Used(0, 0))
    snapshot: Snapshot | None = None


def settle(
    connection: Connection,
    node: str,
    info: ProcessInfo,
    delivered: Delivered,
    ran: Ran,
    now_ms: int,
    *,
    has_room: bool = True,
) -> set[str]:
    """Processes that have something to do now. None when it was settled before. has_room: for what programs send."""
    lines: list[str] = []
    result, woken = ran.result, set[str]()
    if result.error is None and (result.messages or result.spawns or result.assignments):
        if has_room or info.kind != "lua":
            woken = _sent(connection, node, info, delivered, result, now_ms, lines)
        else:
            lines.append("not sent: the node may store no more")
    _publish(connection, info, result, lines)
    if lines:
        result = replace(result, output=b"\n".join([result.output, *map(str.encode, lines)]).strip())
    if not messages.finish(connection, delivered.place, result):
        raise AlreadySettled
    processes.append_log(connection, info.id, ran.entries)
    if ran.snapshot is not None:
        processes.keep_snapshot(connection, info.id, ran.snapshot)
    if ran.kept is not None:
        processes.keep(connection, info.id, ran.kept, ran.used)
    return woken


def _publish(connection: Connection, info: ProcessInfo, result: Result, lines: list[str]) -> None:
    if not result.patch:
        return
    tree = processes.published(connection, info.id)
    merge(tree, result.patch)
    if len(values.encode(tree)) > MAX_PUBLISHED_BYTES:
        lines.append(f"not published: a process publishes {MAX_PUBLISHED_BYTES} bytes at most")
    else:
        processes.publish(connection, info.id, tree)


class AlreadySettled(Exception):
    """The message was run before; the transaction is undone."""


def run_native(
    connection: Connection, node: str, process: str, now_ms: int, lease_ms: int = herder.LEASE_MS
) -> set[str]:
    """Messages of a token or a herder, as far as they wait, and no more than some at once."""
    woken: set[str] = set()
    info = processes.find(connection, process)
    assert info is not None
    for _ in range(_NATIVE_AT_ONCE):
        delivered = messages.next_waiting(connection, process)
        if delivered is None:
            return woken
        ran = native_result(connection, node, info, delivered, lease_ms)
        woken |= settle(connection, node, info, delivered, ran, now_ms)
    return woken | {process}


def native_result(
    connection: Connection, node: str, info: ProcessInfo, delivered: Delivered, lease_ms: int = herder.LEASE_MS
) -> Ran:
    """lease_ms: what workers of a herder have for an answer."""
    if delivered.is_assigned:
        return Ran(Result(output=NOT_TAKEN))
    if info.kind == "token":
        return Ran(token.handle(money.Ledger(connection, info.id), info, delivered, node))
    found = processes.kept(connection, info.id)
    (last,) = values.decode(found) if found else (1.0,)
    before = float(last) if isinstance(last, float) else 1.0
    result, after = herder.handle(money.Desk(connection, info.id), info, delivered, node, before, lease_ms)
    return Ran(result, kept=values.encode(after) if after != before else None)


def make(
    connection: Connection, message: Incoming, sender: str, now_ms: int, offspring: int = OFFSPRING
) -> Place | None:
    """A process by its Process message, which is in slot 0; None when it was made before."""
    if processes.exists(connection, message.id):
        return None
    module = message.tag("Module") or ""
    processes.make(connection, message.id, sender, module, "lua", message.tags)
    return messages.deliver(connection, message.id, replace(message, target=message.id), sender, now_ms, offspring)


@dataclass(frozen=True, slots=True)
class _Post:
    target: str
    message: Incoming
    sender: str


def _sent(
    connection: Connection,
    node: str,
    info: ProcessInfo,
    delivered: Delivered,
    result: Result,
    now_ms: int,
    lines: list[str],
) -> set[str]:
    """lines: what is told to whoever reads the result: what did not go.

    Messages of native processes are about money: they are never dropped, and cannot go on for ever by themselves.
    """
    spawned = [_message(node, info, delivered.place, "process", *each) for each in enumerate(result.spawns)]
    posts = _posts(connection, node, info, delivered.place, result, spawned, lines)
    n, woken, is_native = len(posts) + len(spawned), set[str](), info.kind != "lua"
    if not n:
        return woken
    n_bytes = sum(len(post.message.data) for post in posts) + sum(len(message.data) for message in spawned)
    left = (delivered.offspring - n - n_bytes // OFFSPRING_BYTES) // n
    if left < 0 and not is_native:
        told = f"{OFFSPRING} messages may come of one of a client's, each {OFFSPRING_BYTES} bytes of which count as one"
        lines.append(f"not sent: {told} more")
        return woken
    for message in spawned:
        if processes.count(connection) >= MAX_PROCESSES:
            lines.append(f"not made: there are {MAX_PROCESSES} processes")
        elif make(connection, message, info.id, now_ms, max(left, 0)) is not None:
            woken.add(message.id)
    for post in posts:
        if not is_native and processes.backlog(connection, post.target) >= MAX_WAITING:
            lines.append(f"not sent: {MAX_WAITING} messages wait for {post.target}")
            continue
        messages.deliver(connection, post.target, post.message, post.sender, now_ms, max(left, 0))
        woken.add(post.target)
    return woken


def _posts(
    connection: Connection,
    node: str,
    info: ProcessInfo,
    place: Place,
    result: Result,
    spawned: Sequence[Incoming],
    lines: list[str],
) -> list[_Post]:
    """Messages to processes; a wallet reads results."""
    posts = [
        _Post(outgoing.target, _message(node, info, place, "message", number, outgoing), info.id)
        for number, outgoing in enumerate(result.messages)
    ]
    for number, (outgoing, message) in enumerate(zip(result.spawns, spawned, strict=True)):
        reference = tag_of(outgoing.tags, "Reference") or ""
        tags = tags_of(Action="Spawned", Process=message.id, Reference=reference, X_Reference=reference)
        told = _message(node, info, place, "spawned", number, Outgoing(info.id, b"", b"", tags))
        posts.append(_Post(info.id, told, info.id))
    for assignment in result.assignments:
        found = messages.find(connection, assignment.message)
        if found is None:
            lines.append(f"not assigned: there is no message {assignment.message[:80]}")
            continue
        posts += [_Post(process, found.message, found.sender) for process in assignment.processes]
    return [post for post in posts if processes.exists(connection, post.target)]


def _message(node: str, info: ProcessInfo, place: Place, kind: str, number: int, outgoing: Outgoing) -> Incoming:
    id = derived_id(place.process, place.slot, kind, number)
    own = tags_of(From_Process=info.id, From_Module=info.module)
    return Incoming(id, node, outgoing.target, outgoing.data, client_tags(outgoing.tags) + own, outgoing.anchor)
