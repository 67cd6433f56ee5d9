"""Call: one message while it is being executed, and everything that its handler may use.

A handler reads the canister's committed state, adds changes to the call's unit of work, and asks for locks, the engine
and a meter. It never commits. `dispatch` commits everything at once, or nothing, and releases what the call holds.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from canister.errors import InstructionLimit, NotFound, OutOfCycles
from canister.flags.values import UINT32_MAX
from canister.ic.receipts.values import encoded
from canister.metering import fees
from canister.metering.cost_model import other_cost
from canister.metering.fees import Charge
from canister.runtime.receipts import Facts, Made
from canister.state.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from canister.engine.engine import Engine, Use
    from canister.metering.fees import CallOutcome
    from canister.metering.meter import CallMeter
    from canister.runtime.canister import Canister
    from canister.runtime.receipts import Decoded
    from canister.state.receipts import Added
    from canister.state.settings import State
    from canister.store.transaction import Transaction

OnText = Callable[[str, bool], None]
"""Gets each piece of a run's `output` as soon as it is known, and whether it is echoed prompt. On the event loop."""

MAX_BYTES_AT_ONCE = 256 << 10  # of an argument that is hashed on the event loop

OnLocked = Callable[[Sequence[str]], Awaitable[None]]
"""Sees the locks that a call has just got, before it goes on, and raises if it may not."""


class Call:
    """caller: principal in text form. is_update: False for queries, whose changes are discarded.

    work: what it changes; `tx`, `change`, `on_commit` and `on_rollback` are those of `work`.
    meter: of a call that decodes tokens. request_bytes: size of the argument. is_admitted: the guard let it pass.
    argument: what it was asked, once that is decoded. decoded: what it did with a conversation. used_engine: the model
    that it asked for. receipt: the id of its receipt, once it is committed. wants_receipt: a query that is to have one;
    updates have one. fence: of the try, for a job of a herd.
    on_text: listens to the output of a run before it is committed; None: nobody does. on_locked: asked for each lock.
    seed: instead of a random one, for a chat that begins without; None: a random one.
    """

    def __init__(self, canister: Canister, method: str, caller: str, *, is_update: bool) -> None:
        self.canister = canister
        self.method = method
        self.caller = caller
        self.is_update = is_update
        self.work = UnitOfWork(canister.stable.begin, caller)
        self.now_ns = self.work.now_ns
        self.change = self.work.change
        self.on_commit = self.work.on_commit
        self.on_rollback = self.work.on_rollback
        self.meter: CallMeter | None = None
        self.request_bytes = 0
        self.is_admitted = False
        self.on_text: OnText | None = None
        self.on_locked: OnLocked | None = None
        self.argument: object = None
        self.decoded: Decoded | None = None
        self.used_engine: Engine | None = None
        self.receipt = ""
        self._made: Made | None = None  # the record of this end of the call, if somebody asked for it before
        self.wants_receipt = False
        self.fence: int | None = None
        self.seed: int | None = None
        self._encoded: bytes | None = None  # the argument, for its receipt
        self._flat_cost: int | None = None
        self._is_flat_limited = True
        self._held: list[Callable[[], None]] = []  # what gives back locks and model

    @property
    def state(self) -> State:
        """The committed small state, without this call's own changes."""
        return self.canister.state

    @property
    def tx(self) -> Transaction:
        """The call's changes in SQL and files; begun when first asked for."""
        return self.work.tx

    async def lock(self, *names: str) -> None:
        """Hold these locks until the call ends. Ask for all at once, since a second request could dead-lock."""
        wanted = sorted(set(names))
        for name in wanted:
            self._held.append(await self.canister.locks.acquire(name))
        if self.on_locked is not None:
            await self.on_locked(wanted)

    def seed_of_chance(self) -> int:
        """The seed of a chat that begins without one."""
        return secrets.randbelow(UINT32_MAX) if self.seed is None else self.seed

    def begun_at(self, now_ns: int) -> None:
        """Let the call's time be another than that of this machine."""
        self.now_ns = self.work.now_ns = now_ns

    async def engine(self, *, use: Use = "chat") -> Engine:
        """The loaded model, kept in place until the call ends. NotFound while none is loaded, NotSupported where it is
        of another kind.
        """
        await self.canister.model.loaded()
        self._held.append(await self.canister.model.gate.enter())
        if self.canister.model.engine is None:
            raise NotFound(
                'No model is loaded. Call load_model first, for instance with args ["--model", "models/model.gguf"].'
            )
        self.canister.model.engine.check_use(use)
        self.used_engine = self.canister.model.engine
        return self.canister.model.engine

    async def model_alone(self) -> None:
        """Wait until no call uses the model, and hold new ones back until this call ends."""
        await self.canister.model.loaded()
        self._held.append(await self.canister.model.gate.enter(alone=True))

    # -- instructions and cycles

    @property
    def limit(self) -> int | None:
        """Instructions that this call may take; None when that is not enforced."""
        settings = self.canister.settings
        return settings.instruction_limit if self.is_update else settings.query_instruction_limit

    def cost(self, instructions: int, *, is_limited: bool = True) -> None:
        """Set what a call costs that decodes no tokens; otherwise it costs what its request's bytes cost.

        is_limited: False if the cost is counted but not held against the limit.
        """
        self._flat_cost, self._is_flat_limited = instructions, is_limited

    def charge(self) -> Charge:
        """What the call has cost so far."""
        parts = self._parts()
        instructions = sum(parts.values())
        nodes = self.canister.settings.subnet_nodes
        cycles = fees.update_cycles(instructions, self.request_bytes, nodes=nodes) if self.is_update else 0
        limit = self.limit if self._is_flat_limited or self.meter is not None else None
        if self.meter is None:
            return Charge(instructions, cycles, limit, parts, self.receipt)
        work = self.meter.work
        return Charge(instructions, cycles, limit, parts, self.receipt, work.prompt, work.generated)

    def receipted(self, charge: Charge) -> Charge:
        """This charge with the id of the call's receipt, once that is committed."""
        return replace(charge, receipt=self.receipt) if self.receipt else charge

    def is_over_limit(self) -> bool:
        free = 0 if self._is_flat_limited else self._flat_cost or 0
        return self.limit is not None and sum(self._parts().values()) - free > self.limit

    def _parts(self) -> dict[str, int]:
        """Instructions so far, by part of the formula."""
        parts: dict[str, int] = {} if self.meter is None else self.meter.cost.parts()
        if self._flat_cost is not None:
            parts["load" if parts else "base"] = self._flat_cost
        return parts or {"base": other_cost(self.request_bytes)}

    def check_limit(self) -> None:
        """Raise InstructionLimit for a call that took more than it may, or that its meter stopped to trap it."""
        stopped = self.meter is not None and self.meter.policy == "trap" and self.meter.exceeded
        if self.limit is not None and (stopped or self.is_over_limit()):
            raise InstructionLimit(self.canister.id, self.limit)

    def check_balance(self, instructions: int | None = None) -> None:
        """Raise OutOfCycles when the balance does not cover so many instructions of an update; None: the most it may
        take.
        """
        settings = self.canister.settings
        if not self.is_update or settings.balance_policy != "enforce":
            return
        wanted = (self.limit or 0) if instructions is None else instructions
        most = fees.update_cycles(wanted, self.request_bytes, nodes=settings.subnet_nodes)
        if self.canister.ledger.cycles < most:
            raise OutOfCycles(self.canister.id, most - self.canister.ledger.cycles)

    # -- for dispatch only

    async def commit(self, charge: Charge, reply: object) -> None:
        """Make all changes durable, then visible. Raises what the store raises, and has then changed nothing."""
        self.canister.record(self.work)
        await self._commit_charged(self.tx, charge, "ok", reply)
        self.canister.apply(self.work)
        self.work.committed()

    async def commit_charge(
        self, charge: Charge, outcome: CallOutcome, told: object, note: Callable[[Transaction], None]
    ) -> None:
        """After a roll-back: charge and log the call all the same. told: why. note: adds to the transaction."""
        self.decoded = self._made = None  # it was undone
        transaction = self.canister.stable.begin()
        try:
            note(transaction)
            await self._commit_charged(transaction, charge, outcome, told)
        except BaseException:
            await self.canister.rollback(transaction)
            raise

    async def commit_receipt(self, charge: Charge, reply: object) -> None:
        """Let a query that asked for it have a receipt; it changes nothing else."""
        transaction = self.canister.stable.begin()
        added = await self._receipted(transaction, charge, "ok", reply)
        if added is not None:
            await self.canister.commit(transaction)
            self.receipt = added.id

    async def _commit_charged(
        self, transaction: Transaction, charge: Charge, outcome: CallOutcome, told: object
    ) -> None:
        added = await self._receipted(transaction, charge, outcome, told)
        ledger = self.canister.ledger
        ledger.add(transaction, -charge.cycles)
        self.canister.call_log.add(transaction, self.caller, self.method, self.now_ns, outcome, charge)
        await self.canister.commit(transaction)
        ledger.committed(-charge.cycles)
        self.canister.logged.tell()
        if added is not None:
            self.receipt = added.id

    async def _receipted(
        self, transaction: Transaction, charge: Charge, outcome: CallOutcome, told: object
    ) -> Added | None:
        """The record of the call, as part of its transaction; None where there are no receipts."""
        if self.canister.settings.receipts == "off":
            return None
        self.encode_argument()
        if self._encoded is None:
            self._encoded = await asyncio.to_thread(encoded, self.argument)
        made = self._made
        if made is None:
            made = self.canister.receipt_book.make(self._facts(), charge, outcome, self._encoded, told)
        return self.canister.receipt_book.add(transaction, made)

    def encode_argument(self) -> None:
        """Make what the receipt has the hash of, unless that takes long. Whoever waits for the engine has the time."""
        if self._encoded is None and self.argument is None:
            self._encoded = b""
        elif self._encoded is None and self.request_bytes <= MAX_BYTES_AT_ONCE:
            self._encoded = encoded(self.argument)

    def make_receipt(self, outcome: CallOutcome, told: object) -> Made | None:
        """The record that this end of the call will leave when it is committed; None where there are no receipts."""
        if self.canister.settings.receipts == "off":
            return None
        self.encode_argument()
        if self._encoded is None:
            self._encoded = encoded(self.argument)
        self._made = self.canister.receipt_book.make(self._facts(), self.charge(), outcome, self._encoded, told)
        return self._made

    def _facts(self) -> Facts:
        engine = self.used_engine
        cost = self.canister.model.cost_context_of(engine)
        return Facts(
            self.caller,
            self.method,
            self.is_update,
            self.now_ns,
            self.request_bytes,
            self.limit,
            self.canister.herd.worker,
            self.fence,
            self.decoded,
            engine,
            cost,
        )

    async def rollback(self) -> None:
        """Undo everything that was prepared."""
        if self.work.has_transaction:
            await self.canister.rollback(self.work.tx)
        self.work.undone()

    def release(self) -> None:
        """Give back locks and model, however the call ended."""
        while self._held:
            self._held.pop()()
