"""The paid queue: a prompt, a number of tokens and a fee, for one answer that is paid for when it is there.

    quoted → accepted, the fee is held → calls of a passing chat, at the multiplier's place in the queue → settled

The job in the journal is the whole answer; its calls are jobs of their own, with ids that follow from it. So after a
crash the chain goes on behind its last settled call, and is paid for once. Where it cannot be answered, the fee goes
back to whoever paid it.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from canister.api import codec
from canister.api.chain import Chain
from canister.api.herd_wire import Done
from canister.api.methods import BY_NAME, Method
from canister.api.records import InputRecord, RunOutputRecord
from canister.errors import BadArgument, CanisterStopping, CanisterTrapped, Conflict, Trap
from canister.handlers import pages
from canister.herd import fees, replies
from canister.herd.chat_paths import chats_of
from canister.herd.jobs import Job

if TYPE_CHECKING:
    from canister.herd.balance import Balance
    from canister.herd.control import ControlLog
    from canister.herd.leader import Leader
    from canister.herd.settings import HerdSettings

METHOD = "inference"
"""In the journal, instead of a row's name."""

KEPT_NS = 24 * 3600 * 10**9
MAX_CALLS = 10_000  # of one answer
_FLOAT, _INTEGER = struct.Struct(">d"), struct.Struct(">q")
_CHAIN = "chain"  # stands for a worker, where the journal asks


@dataclass(frozen=True, slots=True)
class Wanted:
    """prompt: as the model gets it. tokens: that are paid for. fee: in smallest units."""

    canister: str
    prompt: str
    tokens: int
    fee: int
    multiplier: float

    def to_bytes(self) -> bytes:
        return json.dumps([self.prompt, self.tokens, str(self.fee)]).encode()


@dataclass(frozen=True, slots=True)
class Paid:
    """A job as it is paid for now. waits: its next call has not had its turn."""

    id: bytes
    caller: str
    fee: int
    multiplier: float
    waits: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """output: the generated text. tokens: how many. ended: the model ended it, and not the number of tokens."""

    output: str
    tokens: int
    ended: bool


class Inference:
    """The paid queue of one herd."""

    def __init__(self, leader: Leader, control: ControlLog, settings: HerdSettings, balance: Balance) -> None:
        self._leader = leader
        self._journal = leader.journal
        self._control = control
        self._settings = settings
        self._balance = balance
        self._running: dict[bytes, Job] = {}
        self._calls: dict[bytes, Job] = {}  # the present call of each

    def quote(self, prompt: str, tokens: int, fee: int | None, by: float | None) -> tuple[int, int]:
        """The least that a job costs, and what its client would pay: enough to be next. Raises BadRequest."""
        least = fees.needed(prompt, tokens, self._settings.prices)
        last = fees.published(self._leader.last_multiplier)
        return least, fees.quote(least, last, self._leader.n_queued, fee=fee, by=by)

    def wanted(self, canister: str, prompt: str, tokens: int, fee: int | None, by: float | None) -> Wanted:
        """A job as it will be paid for. Raises BadRequest for too small a fee."""
        least, price = self.quote(prompt, tokens, fee, by)
        return Wanted(canister, prompt, tokens, price, fees.multiplier(price, least))

    def paid(
        self, canister: str, caller: str | None, limit: str | None = None, after: str | None = None
    ) -> tuple[list[Paid], dict[str, Any]]:
        """The jobs that are not answered yet, the dearest first, and `next`; a page as other lists have them.

        caller: None for those of all callers. BadRequest for a limit or a place that is none.
        """
        jobs = [job for job in self._running.values() if job.canister == canister and caller in (None, job.caller)]
        found, following = pages.page(sorted(jobs, key=_place), _place, limit, after, 3)
        return [self._told(job) for job in found], following

    async def raise_fee(self, id: bytes, fee: int) -> Paid:
        """Hold more for a job that waits, and give it the place of its new multiplier. One that begins meanwhile has
        been paid more for, and its later calls have that place. Raises BadRequest, Conflict, InsufficientBalance.
        """
        job = self._running.get(id)
        if job is None or not self._told(job).waits:
            raise Conflict("the job does not wait: its fee stays as it is")
        prompt, tokens, _ = json.loads(job.arg)
        multiplier = fees.multiplier(fee, fees.needed(prompt, tokens, self._settings.prices))
        held = await self._journal.raise_hold(id, fee, multiplier, self._leader.epoch)
        if held == fee and fee > job.hold:  # not one that was raised further meanwhile
            job.hold, job.multiplier = fee, multiplier
            call = self._calls.get(id)
            if call is not None:
                self._leader.reprice(call, multiplier)
        return self._told(job)

    def _told(self, job: Job) -> Paid:
        call = self._calls.get(job.id)
        waits = call is not None and call.method.name == "run_update" and self._leader.waits(call)
        return Paid(job.id, job.caller, job.hold, job.multiplier, waits)

    async def run(
        self, id: bytes, caller: str, wanted: Wanted, accepted: Callable[[], None] = lambda: None
    ) -> tuple[Done, Paid]:
        """Hold the fee, answer, settle. It goes on when nobody waits. Raises InsufficientBalance, Trap."""
        job = self._running.get(id)
        if job is None:
            now_ns = time.time_ns()
            self._leader.check_leads()
            job = Job(
                id=id,
                canister=wanted.canister,
                caller=caller,
                method=ROW,
                arg=wanted.to_bytes(),
                chats=(),
                now_ns=now_ns,
                settles=True,
                accepted=True,
                goes_on=True,
                multiplier=wanted.multiplier,
                hold=wanted.fee,
                payer=caller,
                due_ns=now_ns + int(self._settings.ttl_seconds * 1e9),
                kept_until_ns=now_ns + KEPT_NS,
            )
            await self._balance.check(job)
            known = await self._journal.accept(job.as_new(), epoch=self._leader.epoch)
            if known.job.answer is not None:
                row = known.job
                return replies.of_answer(known.job.answer), Paid(id, caller, row.hold, row.multiplier, waits=False)
            job = self._running.setdefault(id, job)
            self._leader.spawn(self.go_on(job), f"inference {id.hex()[:16]}")
        accepted()
        done = await job.outcome()
        return done, self._told(job)

    async def go_on(self, job: Job) -> None:
        """Answer a job that the journal has accepted."""
        self._running[job.id] = job
        leader = self._leader
        try:
            job.fence = leader.tries.next_fence()
            await self._journal.assign(job.id, _CHAIN, job.fence, leader.epoch)
            prompt, tokens, _ = json.loads(job.arg)
            started_ns = time.time_ns()
            answered = await self._answered(job, prompt, tokens)
            record = RunOutputRecord(
                status_code=200,
                output=answered.output,
                generated_eog=answered.ended,
                n_tokens_generated=answered.tokens,
            )
            done = Done(codec.encode_reply(ROW, record))
            job.end(await leader.tries.settle(job, _CHAIN, done, started_ns) or done)
        except Trap as trap:
            await leader.refuse(job, trap)
        finally:
            job.fail(CanisterStopping("the herd is stopping; ask again with the same key, and nothing is paid twice"))
            del self._running[job.id]

    async def _answered(self, job: Job, prompt: str, tokens: int) -> Answered:
        name = f"herd-{job.id.hex()[:32]}"
        chain = Chain(prompt, name, tokens)
        for number in range(MAX_CALLS):
            arg = chain.next()
            if arg is None:
                break
            chain.took(await self._call(job, number, "run_update", arg), is_shown=False)
        await self._call(job, MAX_CALLS, "remove_prompt_cache", InputRecord(args=["--prompt-cache", name]))
        if chain.finish == "stuck":
            raise CanisterTrapped("the call could not be answered: no call takes any more of the prompt")
        # A call that ends at the number of tokens has told one more than it counts.
        n_left = 0 if chain.finish == "length" else chain.n_left
        return Answered(chain.answer, tokens - n_left, chain.finish == "stop")

    async def _call(self, parent: Job, number: int, method: str, arg: InputRecord) -> RunOutputRecord:
        """One call of the chain. Raises Trap for whatever keeps it from going on."""
        row = BY_NAME[method]
        child = Job(
            id=hashlib.sha256(b"llama-canister call of a chain\n" + parent.id + number.to_bytes(4, "big")).digest(),
            canister=parent.canister,
            caller=parent.caller,
            method=row,
            arg=codec.encode_args(row, arg),
            chats=chats_of(row, parent.caller, arg),
            now_ns=parent.now_ns,
            settles=True,
            goes_on=True,
            rev=self._control.rev(parent.canister),
            multiplier=parent.multiplier,
            is_priced=True,
            due_ns=parent.due_ns if number == 0 else None,
            kept_until_ns=parent.kept_until_ns,
        )
        self._calls[parent.id] = child
        try:
            done = await self._leader.run(child)
        finally:
            del self._calls[parent.id]
        reply = replies.to_reply(row, done)
        assert isinstance(reply.value, RunOutputRecord)
        if reply.error is not None:
            raise CanisterTrapped(f"the call could not be answered: {reply.value.error or reply.value.output}")
        return reply.value


ROW = Method(METHOD, "update", "inference_update", InputRecord, RunOutputRecord, RunOutputRecord, "", "chat")


def read_amount(body: dict[str, Any]) -> tuple[int | None, float | None]:
    """The fee in smallest units and the multiplier of a request. Raises BadArgument."""
    fee, by = body.get("fee"), body.get("multiplier")
    if isinstance(fee, str) and fee.isascii() and fee.isdigit() and len(fee) <= 78:
        fee = int(fee)
    if fee is not None and (isinstance(fee, bool) or not isinstance(fee, int) or fee < 0):
        raise BadArgument(f'"fee" is a number of smallest units, such as "12", not {str(fee)[:80]!r}')
    if by is not None and (isinstance(by, bool) or not isinstance(by, int | float) or not 0 < by < 1e9):
        raise BadArgument(f'"multiplier" is a number above 0, such as 1.5, not {str(by)[:80]!r}')
    return fee, None if by is None else float(by)


def check_prompt(prompt: object, tokens: object) -> tuple[str, int]:
    """Raises BadArgument."""
    if not isinstance(prompt, str) or not prompt:
        raise BadArgument('"prompt" is a text, or give "messages": [{"role": "user", "content": "Hi"}]')
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= fees.MAX_TOKENS:
        raise BadArgument(f'"tokens" is a number from 1 to {fees.MAX_TOKENS}, not {str(tokens)[:80]!r}')
    return prompt, tokens


def _place(job: Job) -> pages.Place:
    """In the list: by price, then by time. The bits of positive floats are in the order of the floats."""
    (price,) = _INTEGER.unpack(_FLOAT.pack(job.multiplier))
    return -price, job.now_ns, int.from_bytes(job.id[:7])
