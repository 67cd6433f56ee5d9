"""Call: one message while it is being executed, and all that a handler is given of the world.

A handler reads the canister's committed state, adds its changes to the call (`change`, `tx`), and asks for locks and the
engine; it never commits. `dispatch` commits everything at once, or nothing, and releases what the call holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from canister.errors import NotFound

if TYPE_CHECKING:
    from canister.canister import Canister
    from canister.engine.engine import Engine
    from canister.state import State
    from canister.store.transaction import Transaction


class Call:
    """caller: principal in text form. is_update: False for queries, whose changes are discarded."""

    def __init__(self, canister: Canister, method: str, caller: str, *, is_update: bool) -> None:
        self.canister = canister
        self.method = method
        self.caller = caller
        self.is_update = is_update
        self.now_ns = time.time_ns()
        self._transaction: Transaction | None = None
        self._changes: dict[str, object] = {}
        self._held = AsyncExitStack()
        self._on_commit: list[Callable[[], None]] = []
        self._on_rollback: list[Callable[[], None]] = []

    @property
    def state(self) -> State:
        """The committed small state, without this call's own changes."""
        return self.canister.state

    @property
    def tx(self) -> Transaction:
        """What this call changes in SQL and files; made when first asked for."""
        if self._transaction is None:
            self._transaction = self.canister.stable.begin()
        return self._transaction

    @property
    def is_dirty(self) -> bool:
        """True when there is anything to commit or to roll back."""
        return self._transaction is not None or bool(self._changes)

    def change(self, **fields: object) -> None:
        """Set fields of the canister's State when the call commits."""
        self._changes.update(fields)

    def on_commit(self, action: Callable[[], None]) -> None:
        """Do something in memory, on the event loop, after the call was committed. It must not fail."""
        self._on_commit.append(action)

    def on_rollback(self, action: Callable[[], None]) -> None:
        """Do something in memory, on the event loop, if the call leaves no trace. It must not fail."""
        self._on_rollback.append(action)

    async def lock(self, *names: str) -> None:
        """Hold these locks until the call is over. To be asked for at once: a second request could dead-lock."""
        for name in sorted(set(names)):
            await self._held.enter_async_context(self.canister.locks.hold(name))

    async def engine(self) -> Engine:
        """The loaded model, kept in place until the call is over. NotFound while none is loaded."""
        await self.canister.loaded()
        await self._held.enter_async_context(self.canister.model_gate.shared())
        if self.canister.engine is None:
            raise NotFound(
                'No model is loaded. Call load_model first, for instance with args ["--model", "models/model.gguf"].'
            )
        return self.canister.engine

    async def model_alone(self) -> None:
        """Wait until no call uses the model, and hold new ones back until this call is over."""
        await self.canister.loaded()
        await self._held.enter_async_context(self.canister.model_gate.exclusive())

    # -- for dispatch only

    async def commit(self) -> None:
        """Make all changes durable, then visible. Raises what the store raises; then nothing has changed."""
        if self.is_dirty:
            transaction = self.tx
            if self._changes:
                for statement in self.canister.statements_for(self._changes):
                    transaction.execute(statement)
            await self.canister.commit(transaction)
            self.canister.apply(self._changes)
        for action in self._on_commit:
            action()

    async def rollback(self) -> None:
        """Undo whatever was prepared."""
        if self._transaction is not None:
            await self.canister.rollback(self._transaction)
        for action in self._on_rollback:
            action()

    async def release(self) -> None:
        """Give back locks and model, in whatever way the call ended."""
        await self._held.aclose()
