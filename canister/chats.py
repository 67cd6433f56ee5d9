"""Saved chats: the newest few conversations of each caller, kept while saving is on."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from canister.store import tables
from canister.store.db import Database

if TYPE_CHECKING:
    from canister.call import Call

KEPT_PER_CALLER = 3


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

    def start(self, call: Call) -> None:
        """A new, empty chat; the caller's oldest beyond KEPT_PER_CALLER go."""
        table = tables.saved_chats
        started = dt.datetime.fromtimestamp(call.now_ns / 1e9, dt.UTC)
        newest = (
            select(table.c.id).where(table.c.caller == call.caller).order_by(table.c.id.desc()).limit(KEPT_PER_CALLER)
        )
        call.tx.execute(
            insert(table).values(
                caller=call.caller, timestamp=f"{started:%Y-%m-%d_%H-%M-%S}", created_ns=call.now_ns, chat=""
            )
        )
        call.tx.execute(delete(table).where(table.c.caller == call.caller, table.c.id.not_in(newest)))

    def save(self, call: Call, conversation: str) -> None:
        """The conversation becomes the text of the caller's newest chat, which is started if there is none."""
        table = tables.saved_chats
        with self._database.read() as connection:
            newest = connection.execute(
                select(table.c.id).where(table.c.caller == call.caller).order_by(table.c.id.desc()).limit(1)
            ).scalar()
        if newest is None:
            self.start(call)
        latest = select(table.c.id).where(table.c.caller == call.caller).order_by(table.c.id.desc()).limit(1)
        call.tx.execute(update(table).where(table.c.id == latest.scalar_subquery()).values(chat=conversation))
