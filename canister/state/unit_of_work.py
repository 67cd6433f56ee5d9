"""UnitOfWork: all that one call changes, committed as a whole or not at all.

It holds a transaction of SQL and files, fields of the State, and work in memory for when the outcome is known.
`dispatch` commits the transaction and then calls `committed` or `undone`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canister.store.container import CacheFile
    from canister.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class SavedChatChange:
    """What a call does to its caller's saved chats. started: it begins one. text: of the newest one; None: it is left
    alone.
    """

    started: bool
    text: str | None = None


class UnitOfWork:
    """caller: principal in text form. begin: makes its transaction. now_ns: when the call began, in ns since 1970."""

    def __init__(self, begin: Callable[[], Transaction], caller: str) -> None:
        self.caller = caller
        self.now_ns = time.time_ns()
        self._begin = begin
        self._transaction: Transaction | None = None
        self._changes: dict[str, object] = {}
        self._on_commit: list[Callable[[], None]] = []
        self._on_rollback: list[Callable[[], None]] = []

        self.containers: dict[str, CacheFile] = {}
        """Chats that it writes, by path, as they will be; noted for who compares them."""

        self.saved_chat: SavedChatChange | None = None
        """Noted by who changes them, for who keeps the saved chats elsewhere too."""

    @property
    def tx(self) -> Transaction:
        """The changes in SQL and files; begun when first asked for."""
        if self._transaction is None:
            self._transaction = self._begin()
        return self._transaction

    @property
    def has_transaction(self) -> bool:
        """Was a transaction begun? A roll-back must wait for it."""
        return self._transaction is not None

    @property
    def changes(self) -> Mapping[str, object]:
        """The fields of the State that were set, by name."""
        return MappingProxyType(self._changes)

    def change(self, **fields: object) -> None:
        """Set fields of the canister's State at the commit."""
        self._changes.update(fields)

    def on_commit(self, action: Callable[[], None]) -> None:
        """Do something in memory, on the event loop, after the commit. It must not fail."""
        self._on_commit.append(action)

    def on_rollback(self, action: Callable[[], None]) -> None:
        """Do something in memory, on the event loop, if nothing is committed. It must not fail."""
        self._on_rollback.append(action)

    def committed(self) -> None:
        """The transaction is committed and the State changed: run what waits for that."""
        for action in self._on_commit:
            action()

    def undone(self) -> None:
        """Nothing was committed: run what waits for that."""
        for action in self._on_rollback:
            action()
