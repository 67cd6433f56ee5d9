"""Saved chats: the newest few conversations of each caller, kept while saving is on."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, exists, insert, select, update

from canister.state.unit_of_work import SavedChatChange, UnitOfWork
from canister.store import tables
from canister.store.database import Database
from canister.store.statements import Prepared

KEPT_PER_CALLER = 3

_table = tables.saved_chats
_of_caller = _table.c.caller == bindparam("of_caller")
_newest = select(_table.c.id).where(_of_caller).order_by(_table.c.id.desc())

_COLUMNS = ("caller", "timestamp", "created_ns", "chat")
_START = Prepared(insert(_table), *_COLUMNS)
_START_FIRST = Prepared(
    insert(_table).from_select(
        _COLUMNS,
        select(*(bindparam(name, type_=_table.c[name].type) for name in _COLUMNS)).where(
            ~exists().where(_table.c.caller == bindparam("caller"))
        ),
    )
)
_PRUNE = Prepared(delete(_table).where(_of_caller, _table.c.id.not_in(_newest.limit(KEPT_PER_CALLER))))
_SAVE = Prepared(
    update(_table).where(_table.c.id == _newest.limit(1).scalar_subquery()).values(chat=bindparam("conversation"))
)


@dataclass(frozen=True, slots=True)
class SavedChat:
    """timestamp: when the chat was started, `%Y-%m-%d_%H-%M-%S`, UTC."""

    timestamp: str
    chat: str


class Chats:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, caller: str) -> list[SavedChat]:
        """The caller's chats, newest first."""
        table = tables.saved_chats.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(table.timestamp, table.chat).where(table.caller == caller).order_by(table.id.desc())
            ).all()
        return [SavedChat(*row) for row in rows]

    def start(self, work: UnitOfWork) -> None:
        """A new, empty chat. Drops the caller's oldest beyond KEPT_PER_CALLER."""
        work.tx.execute(_START, _first_row(work))
        work.tx.execute(_PRUNE, {"of_caller": work.caller})
        work.saved_chat = SavedChatChange(started=True)

    def save(self, work: UnitOfWork, conversation: str) -> None:
        """Save the conversation as the text of the caller's newest chat, which is started if there is none."""
        work.tx.execute(_START_FIRST, _first_row(work))
        work.tx.execute(_SAVE, {"of_caller": work.caller, "conversation": conversation})
        work.saved_chat = SavedChatChange(started=False, text=conversation)


def _first_row(work: UnitOfWork) -> dict[str, object]:
    started = dt.datetime.fromtimestamp(work.now_ns / 1e9, dt.UTC)
    return {
        "caller": work.caller,
        "timestamp": f"{started:%Y-%m-%d_%H-%M-%S}",
        "created_ns": work.now_ns,
        "chat": "",
    }
