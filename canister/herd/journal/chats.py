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
from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_, update

from canister.api.herd_wire import ChatChange
from canister.errors import StoreDamaged
from canister.herd.journal import leading
from canister.herd.journal.records import Chat
from canister.herd.journal.statements import Lookup, Row, Rows, Statement
from canister.herd.journal.tables import chat as table
from canister.herd.journal.tables import chat_record as records
from canister.store.container import CacheDamaged, CacheFile, Conversation, encode_header
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
        self._states: OrderedDict[bytes, Conversation] = OrderedDict()
        self._n_tokens = 0
        self._lock = threading.Lock()

    def get(self, head: bytes) -> Conversation | None:
        with self._lock:
            state = self._states.get(head)
            if state is not None:
                self._states.move_to_end(head)
            return state

    def put(self, head: bytes, state: Conversation) -> None:
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
    n_tokens: int = 0
    n_changes: int = 0


def locked(rows: Sequence[Row], keys: Iterable[Key]) -> dict[Key, LockedChat]:
    """What LOCK has found of these chats, also those that are not there. It looks for paths alone."""
    found = {key: LockedChat(key) for key in keys}
    for *names, id, head, n_tokens, n_changes in rows:
        canister, caller, path = names
        if (canister, caller, path) in found:
            found[canister, caller, path] = LockedChat((canister, caller, path), id, head, n_tokens, n_changes)
    return found


@dataclass(frozen=True, slots=True)
class CheckedChange:
    """A change with the state that it gives; None: the chat is removed."""

    chat: LockedChat
    change: ChatChange
    added: Conversation | None
    after: Conversation | None
    worker: str
    now_ns: int


def check(
    connection: Connection, states: States, chat: LockedChat, change: ChatChange, worker: str, now_ns: int
) -> CheckedChange:
    """What the change gives; nothing is written here. Raises BadChange, and StoreDamaged for the chat before it."""
    if change.head == b"":
        return CheckedChange(chat, change, None, None, worker, now_ns)
    before = state_of(connection, states, chat) if change.keep else None
    try:
        added = CacheFile.parse(change.container)
        if not added.is_whole:
            raise BadChange("its container is cut off")
        after = gone_on(before, change.keep, added)
    except (CacheDamaged, ValueError) as error:
        raise BadChange(str(error)) from error
    if head_of(after) != change.head:
        raise BadChange(f"its tokens have the head {head_of(after).hex()}, and it names {change.head.hex()}")
    return CheckedChange(chat, change, added, after, worker, now_ns)


def write(connection: Connection, states: States, changes: Sequence[CheckedChange]) -> None:
    """Write checked changes, at most one a chat."""
    updated: list[dict[str, Any]] = []
    cut: list[dict[str, Any]] = []
    added: list[dict[str, Any]] = []
    for done in changes:
        chat, after = done.chat, done.after
        if after is None or done.added is None:
            _REMOVE.run(connection, [] if chat.id is None else [{"of_id": chat.id}])
            chat.id = None
        else:
            chat.n_changes += 1
            if chat.id is None:
                canister, caller, path = chat.key
                key = {"canister": canister, "caller": caller, "path": path}
                chat.id = int(_NEW.fetch(connection, key | _values(done, after))[0][0])
            else:
                updated.append({"of_id": chat.id, **_values(done, after)})
                if done.change.keep < chat.n_tokens:
                    cut.append({"of_chat": chat.id, "keep": done.change.keep})
            if len(done.added.tokens):  # a chat that was only rolled back has its row's number of tokens
                added.append(_record(chat.id, done.change.keep, done.added))
            states.put(done.change.head, after)
        chat.head = done.change.head
        chat.n_tokens = 0 if after is None else len(after.tokens)
    _UPDATE.run(connection, updated)
    _CUT.run(connection, cut)
    _ADD.run(connection, added)
    for done in changes:
        if done.after is not None and done.chat.id is not None and done.chat.n_changes % MERGED == 0:
            _merge(connection, done.chat.id, done.after)


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


@dataclass(frozen=True, slots=True)
class Removal:
    """Chats to be removed without a call, as far as they are still as they were seen."""

    epoch: int
    chats: Sequence[Chat]


def remove(connection: Connection, steps: Sequence[Removal]) -> list[list[Chat] | Exception]:
    """Those that were removed."""
    epoch = leading.epoch(connection)
    results: list[list[Chat] | Exception] = []
    for step in steps:
        if step.epoch != epoch:
            results.append(leading.lost())
            continue
        gone = []
        for chat in step.chats:
            where = (_c.canister == chat.canister, _c.caller == chat.caller, _c.path == chat.path)
            if connection.execute(delete(table).where(*where, _c.head == chat.head)).rowcount:
                gone.append(chat)
        results.append(gone)
    return results


def state_of(connection: Connection, states: States, chat: LockedChat) -> Conversation | None:
    """The state of a chat; None for one that is not there. Raises StoreDamaged when it is not what its head says."""
    if chat.id is None:
        return None
    known = states.get(chat.head)
    if known is None:
        row = connection.execute(select(table.c.header, table.c.n_tokens).where(table.c.id == chat.id)).one()
        try:
            known = _read(connection, chat.id, row.header, row.n_tokens)
        except (CacheDamaged, ValueError) as error:
            raise _damaged(chat) from error
        if head_of(known) != chat.head:
            raise _damaged(chat)
        states.put(chat.head, known)
    return known


def _damaged(chat: LockedChat) -> StoreDamaged:
    return StoreDamaged(
        f"the tokens of the chat {chat.key[2]} in the journal are not those that were written; remove its prompt cache "
        "and start the chat anew, or restore the database"
    )


# -- reading


def find(connection: Connection, key: Key) -> Chat | None:
    canister, caller, path = key
    c = table.c
    row = connection.execute(_ROWS.where(c.canister == canister, c.caller == caller, c.path == path)).one_or_none()
    return None if row is None else Chat(*row)


def newest(
    connection: Connection, canister: str, caller: str, before: tuple[int, int] | None, n_most: int | None
) -> list[tuple[int, Chat]]:
    """The chats of a caller, the one changed last first, each behind its id: n_most that come after the place `before`,
    a time of change and an id; None for all.
    """
    c = table.c
    query = _ROWS.add_columns(c.id).where(c.canister == canister, c.caller == caller)
    if before is not None:
        query = query.where(tuple_(c.changed_ns, c.id) < tuple_(*before))
    rows = connection.execute(query.order_by(c.changed_ns.desc(), c.id.desc()).limit(n_most))
    return [(number, Chat(*row)) for *row, number in rows]


def count(connection: Connection, canister: str, caller: str) -> int:
    """How many chats a caller has."""
    c = table.c
    query = select(func.count()).select_from(table).where(c.canister == canister, c.caller == caller)
    return connection.scalar(query) or 0


def oldest(connection: Connection, canister: str, n_most: int) -> list[Chat]:
    """Those that were not changed for longest, first."""
    c = table.c
    query = _ROWS.where(c.canister == canister).order_by(c.changed_ns, c.id).limit(n_most)
    return [Chat(*row) for row in connection.execute(query)]


def container(connection: Connection, states: States, key: Key) -> tuple[bytes, bytes] | None:
    """Head, and a container of the whole chat without KV rows; None for a chat that is not there."""
    state = tokens(connection, states, key)
    return None if state is None else (head_of(state), tokens_alone(state))


def tokens(connection: Connection, states: States, key: Key) -> Conversation | None:
    """The whole chat without KV rows; None for one that is not there."""
    canister, caller, path = key
    c = table.c
    where = (c.canister == canister, c.caller == caller, c.path == path)
    row = connection.execute(select(c.id, c.head).where(*where)).one_or_none()
    return None if row is None else state_of(connection, states, LockedChat(key, row.id, row.head))


def _read(connection: Connection, chat_id: int, header: bytes, n_tokens: int) -> CacheFile:
    tokens, marks = np.zeros(0, "<i4"), np.zeros((3, 0), np.bool_)
    c = records.c
    query = select(c.first, c.n_tokens, c.tokens, c.marks).where(c.chat == chat_id).order_by(c.first)
    for row in connection.execute(query):
        tokens = np.concatenate((tokens[: row.first], np.frombuffer(row.tokens, "<i4")))
        marks = np.concatenate((marks[:, : row.first], _unpacked(row.marks, row.n_tokens)), axis=1)
    empty = CacheFile.parse(header)
    tokens, marks = tokens[:n_tokens], marks[:, :n_tokens]
    state, _ = empty.extended(0, tokens, marks[0], starts=marks[1], redrawn=marks[2])
    return state


def _merge(connection: Connection, chat_id: int, state: Conversation) -> None:
    """Make one record of the last small ones, and so on with those that are MERGED times as large."""
    sizes: list[tuple[int, int]] = [(first, n) for first, n in _SIZES.fetch(connection, {"of_chat": chat_id})]
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
    _CUT.run(connection, [{"of_chat": chat_id, "keep": first}])
    _ADD.run(connection, [_record(chat_id, first, CacheFile.parse(tokens_alone(state, first)))])


def _record(chat_id: int, first: int, added: Conversation) -> dict[str, Any]:
    marks = (np.packbits(bits, bitorder="little").tobytes() for bits in (added.generated, added.starts, added.redrawn))
    return {
        "chat": chat_id,
        "first": first,
        "n_tokens": len(added.tokens),
        "tokens": added.tokens.astype("<i4", copy=False).tobytes(),
        "marks": b"".join(marks),
    }


def _unpacked(data: bytes, count: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    rows = np.frombuffer(data, np.uint8).reshape(3, (count + 7) // 8)  # or ValueError: numpy pads with anything
    return np.unpackbits(rows, axis=1, count=count, bitorder="little").astype(np.bool_)


def _values(done: CheckedChange, after: Conversation) -> dict[str, Any]:
    return {
        "head": done.change.head,
        "n_tokens": len(after.tokens),
        "n_changes": done.chat.n_changes,
        "header": encode_header(after.header),
        "worker": done.worker,
        "changed_ns": done.now_ns,
    }


_c, _r = table.c, records.c
_ROWS = select(_c.canister, _c.caller, _c.path, _c.head, _c.n_tokens, _c.worker, _c.stored_head, _c.changed_ns)
_VALUES = ("head", "n_tokens", "n_changes", "header", "worker", "changed_ns")
_of_id, _of_chat = _c.id == bindparam("of_id"), _r.chat == bindparam("of_chat")
LOCK = Lookup(
    select(_c.canister, _c.caller, _c.path, _c.id, _c.head, _c.n_tokens, _c.n_changes)
    .order_by(_c.id)
    .with_for_update(),
    _c.path,
)
_NEW = Statement(insert(table).returning(_c.id), ("canister", "caller", "path", *_VALUES))
_UPDATE = Rows(table, _VALUES, key="id")
_REMOVE = Statement(delete(table).where(_of_id))
_CUT = Statement(delete(records).where(_of_chat, _r.first >= bindparam("keep")))
_ADD = Rows(records, ("chat", "first", "n_tokens", "tokens", "marks"))
_SIZES = Statement(select(_r.first, _r.n_tokens).where(_of_chat).order_by(_r.first))
