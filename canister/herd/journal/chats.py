"""The chats of a herd: head, tokens and marks of each, as records that are merged when there are many.

A record has tokens from `first` on, and the state is what remains when the records are laid over each other in their
order. Its marks are three rows of bits, each of (n_tokens + 7) // 8 bytes: generated, starts, redrawn, as a container
has them. A change is checked before it is written: it must give exactly the head that it names.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_, update

from canister.api.herd_wire import ChatChange
from canister.errors import StoreDamaged
from canister.herd.journal.records import Chat
from canister.herd.journal.tables import chat as table
from canister.herd.journal.tables import chat_record as records
from canister.store.container import CacheDamaged, CacheFile, encode_header
from canister.store.heads import gone_on, head_of, tokens_alone

MERGED = 16  # small records become one
_KEPT_TOKENS = 4 << 20  # of states in memory; some nine bytes each

Key = tuple[str, str, str]
"""Canister, caller, path."""


class BadChange(Exception):
    """A change that does not give the head that it names."""


class States:
    """The states of chats by their heads, so that a change need not be read from the start. Any thread may use it."""

    def __init__(self, kept_tokens: int = _KEPT_TOKENS) -> None:
        self._kept_tokens = kept_tokens
        self._states: OrderedDict[bytes, CacheFile] = OrderedDict()
        self._n_tokens = 0
        self._lock = threading.Lock()

    def get(self, head: bytes) -> CacheFile | None:
        with self._lock:
            state = self._states.get(head)
            if state is not None:
                self._states.move_to_end(head)
            return state

    def put(self, head: bytes, state: CacheFile) -> None:
        with self._lock:
            if head in self._states:
                return
            self._states[head] = state
            self._n_tokens += len(state.tokens)
            while self._n_tokens > self._kept_tokens and len(self._states) > 1:
                _, oldest = self._states.popitem(last=False)
                self._n_tokens -= len(oldest.tokens)


@dataclass(slots=True)
class LockedChat:
    """A chat, locked until the transaction ends. id None: it has no row; its head is b"" then."""

    key: Key
    id: int | None = None
    head: bytes = b""
    n_changes: int = 0


def lock(connection: Connection, keys: Iterable[Key]) -> dict[Key, LockedChat]:
    """The chats, also those that are not there."""
    wanted = sorted(set(keys))
    found = {key: LockedChat(key) for key in wanted}
    c = table.c
    query = select(c.canister, c.caller, c.path, c.id, c.head, c.n_changes).order_by(c.id).with_for_update()
    for start in range(0, len(wanted), 100):
        part = tuple_(c.canister, c.caller, c.path).in_(wanted[start : start + 100])
        for row in connection.execute(query.where(part)):
            key = (row.canister, row.caller, row.path)
            found[key] = LockedChat(key, row.id, row.head, row.n_changes)
    return found


@dataclass(frozen=True, slots=True)
class CheckedChange:
    """A change with the state that it gives; None: the chat is removed."""

    chat: LockedChat
    change: ChatChange
    added: CacheFile | None
    after: CacheFile | None
    worker: str
    now_ns: int


def check(
    connection: Connection, states: States, chat: LockedChat, change: ChatChange, worker: str, now_ns: int
) -> CheckedChange:
    """What the change gives. Raises BadChange; nothing is written here."""
    if change.head == b"":
        return CheckedChange(chat, change, None, None, worker, now_ns)
    try:
        added = CacheFile.parse(change.container)
        if not added.is_whole:
            raise BadChange("its container is cut off")
        after = gone_on(state_of(connection, states, chat) if change.keep else None, change.keep, added)
    except (CacheDamaged, ValueError) as error:
        raise BadChange(str(error)) from error
    if head_of(after) != change.head:
        raise BadChange(f"its tokens have the head {head_of(after).hex()}, and it names {change.head.hex()}")
    return CheckedChange(chat, change, added, after, worker, now_ns)


def write(connection: Connection, states: States, changes: Sequence[CheckedChange]) -> None:
    """Write checked changes, at most one a chat."""
    removed = [done.chat.id for done in changes if done.after is None and done.chat.id is not None]
    if removed:
        connection.execute(delete(table).where(table.c.id.in_(removed)))
    updated: list[dict[str, Any]] = []
    cut: list[dict[str, Any]] = []
    added: list[dict[str, Any]] = []
    for done in changes:
        if done.after is None or done.added is None:
            continue
        values = _values(done, done.after)
        if done.chat.id is None:
            canister, caller, path = done.chat.key
            row = connection.execute(_NEW, {"canister": canister, "caller": caller, "path": path, **values}).one()
            done.chat.id = row.id
        else:
            updated.append({"of_id": done.chat.id, **values})
            cut.append({"of_chat": done.chat.id, "keep": done.change.keep})
        added.append(_record(done.chat.id, done.change.keep, done.added))
    if updated:
        connection.execute(_UPDATE, updated)
        connection.execute(_CUT, cut)
    if added:
        connection.execute(insert(records), added)
    for done in changes:
        if done.after is not None:
            states.put(done.change.head, done.after)
            done.chat.n_changes += 1
            if done.chat.n_changes % MERGED == 0 and done.chat.id is not None:
                _merge(connection, done.chat.id, done.after)
        done.chat.head = done.change.head
        if done.after is None:
            done.chat.id = None


@dataclass(frozen=True, slots=True)
class Stored:
    key: Key
    head: bytes


def stored(connection: Connection, steps: Sequence[Stored]) -> list[bool | Exception]:
    """The objects have the rows of these states. False: the chat has another state by now."""
    results: list[bool | Exception] = []
    c = table.c
    for step in steps:
        canister, caller, path = step.key
        where = (c.canister == canister, c.caller == caller, c.path == path, c.head == step.head)
        results.append(connection.execute(update(table).where(*where).values(stored_head=step.head)).rowcount == 1)
    return results


def state_of(connection: Connection, states: States, chat: LockedChat) -> CacheFile | None:
    """The state of a chat; None for one that is not there. Raises StoreDamaged when it is not what its head says."""
    if chat.id is None:
        return None
    known = states.get(chat.head)
    if known is None:
        row = connection.execute(select(table.c.header).where(table.c.id == chat.id)).one()
        known = _read(connection, chat.id, row.header)
        if head_of(known) != chat.head:
            raise StoreDamaged(f"the tokens of the chat {chat.key[2]} in the journal are not those that were written")
        states.put(chat.head, known)
    return known


# -- reading


def find(connection: Connection, key: Key) -> Chat | None:
    canister, caller, path = key
    c = table.c
    row = connection.execute(_ROWS.where(c.canister == canister, c.caller == caller, c.path == path)).one_or_none()
    return None if row is None else Chat(*row)


def of(connection: Connection, canister: str, caller: str | None) -> list[Chat]:
    """The chats of a caller, or of all, in the order of their paths."""
    c = table.c
    query = _ROWS.where(c.canister == canister).order_by(c.caller, c.path)
    return [Chat(*row) for row in connection.execute(query if caller is None else query.where(c.caller == caller))]


def container(connection: Connection, states: States, key: Key) -> tuple[bytes, bytes] | None:
    """Head, and a container of the whole chat without KV rows; None for a chat that is not there."""
    canister, caller, path = key
    c = table.c
    where = (c.canister == canister, c.caller == caller, c.path == path)
    row = connection.execute(select(c.id, c.head, c.n_changes).where(*where)).one_or_none()
    if row is None:
        return None
    state = state_of(connection, states, LockedChat(key, row.id, row.head, row.n_changes))
    assert state is not None
    return row.head, tokens_alone(state)


def _read(connection: Connection, chat_id: int, header: bytes) -> CacheFile:
    tokens, marks = np.zeros(0, "<i4"), np.zeros((3, 0), np.bool_)
    c = records.c
    query = select(c.first, c.n_tokens, c.tokens, c.marks).where(c.chat == chat_id).order_by(c.first)
    for row in connection.execute(query):
        tokens = np.concatenate((tokens[: row.first], np.frombuffer(row.tokens, "<i4")))
        marks = np.concatenate((marks[:, : row.first], _unpacked(row.marks, row.n_tokens)), axis=1)
    empty = CacheFile.parse(header)
    state, _ = empty.extended(0, tokens, marks[0], starts=marks[1], redrawn=marks[2])
    return state


def _merge(connection: Connection, chat_id: int, state: CacheFile) -> None:
    """Make one record of the last small ones, and so on with those that are MERGED times as large."""
    c = records.c
    found = connection.execute(select(c.first, c.n_tokens).where(c.chat == chat_id).order_by(c.first)).all()
    sizes: list[tuple[int, int]] = [(row.first, row.n_tokens) for row in found]
    before = list(sizes)
    bound = MERGED * 4
    while bound < 2**31:
        run = 0
        while run < len(sizes) and sizes[-1 - run][1] <= bound:
            run += 1
        if run >= MERGED:
            first = sizes[-run][0]
            sizes[-run:] = [(first, len(state.tokens) - first)]
        bound *= MERGED
    if sizes == before:
        return
    first = sizes[-1][0]
    connection.execute(delete(records).where(c.chat == chat_id, c.first >= first))
    part = CacheFile.parse(tokens_alone(state, first))
    connection.execute(insert(records), [_record(chat_id, first, part)])


def _record(chat_id: int, first: int, added: CacheFile) -> dict[str, Any]:
    marks = (np.packbits(bits, bitorder="little").tobytes() for bits in (added.generated, added.starts, added.redrawn))
    return {
        "chat": chat_id,
        "first": first,
        "n_tokens": len(added.tokens),
        "tokens": added.tokens.astype("<i4", copy=False).tobytes(),
        "marks": b"".join(marks),
    }


def _unpacked(data: bytes, count: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    rows = np.frombuffer(data, np.uint8).reshape(3, -1)
    return np.unpackbits(rows, axis=1, count=count, bitorder="little").astype(np.bool_)


def _values(done: CheckedChange, after: CacheFile) -> dict[str, Any]:
    return {
        "head": done.change.head,
        "n_tokens": len(after.tokens),
        "n_changes": done.chat.n_changes + 1,
        "header": encode_header(after.header),
        "worker": done.worker,
        "changed_ns": done.now_ns,
    }


_c = table.c
_ROWS = select(_c.canister, _c.caller, _c.path, _c.head, _c.n_tokens, _c.worker, _c.stored_head, _c.changed_ns)
_NEW = insert(table).returning(table.c.id)
_UPDATE = (
    update(table)
    .where(table.c.id == bindparam("of_id"))
    .values({name: bindparam(name) for name in ("head", "n_tokens", "n_changes", "header", "worker", "changed_ns")})
)
_CUT = delete(records).where(records.c.chat == bindparam("of_chat"), records.c.first >= bindparam("keep"))
