"""Whatever comes together and whoever dies: money stays constant, and a call happens exactly once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import partial

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.errors import BadRequest, Conflict, InsufficientBalance, LeadershipLost, NotFound
from canister.herd.journal import OPERATOR, Answer, JobRow, Journal
from canister.metering.fees import INITIAL_CYCLES
from tests.herd.conftest import NewDatabase
from tests.herd.journal.parts import CALLER, CANISTER, CHARGE, Talk, job_id, new_job, path_of, settled

REFUSED = Answer(None, 2, "no worker could run it", "IC0202", 503)
PAYERS = ("p", "q")

quickly = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Herd:
    """Leaders one after the other, all still alive and none the wiser; what they believe is drawn."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.leaders: list[tuple[Journal, int]] = []
        self.fences = itertools.count(1)
        self.given: dict[bytes, list[tuple[int, int]]] = {}  # epoch and fence of each try

    async def new_leader(self) -> None:
        if self.leaders:
            await self.leaders[-1][0].resign()
        journal = await Journal.open(self.url)
        epoch = await journal.lead(f"leader {len(self.leaders)}", "nowhere")
        assert epoch is not None
        self.leaders.append((journal, epoch))

    @property
    def journal(self) -> Journal:
        return self.leaders[-1][0]

    async def close(self) -> None:
        for journal, _ in self.leaders:
            await journal.close()


async def told(work: Awaitable[object]) -> object:
    """What comes of it; the errors that callers are told are results too."""
    try:
        return await work
    except (BadRequest, InsufficientBalance, Conflict, LeadershipLost, NotFound) as error:
        return error


# -- money


Step = Callable[[], Awaitable[object]]
"""Drawn, and begun when all of those have been drawn that come together."""


KINDS = ["mint", "transfer", "accept", "accept", "raise", "assign", "settle", "requeue", "refuse"]


def money_step(herd: Herd, data: st.DataObject) -> Step:
    journal, epoch = data.draw(st.sampled_from(herd.leaders), "leader")
    kind = data.draw(st.sampled_from(KINDS))
    payer = data.draw(st.sampled_from(PAYERS))
    amount = data.draw(st.integers(1, 40))
    if kind == "mint":
        return partial(journal.mint, payer, amount, key=data.draw(st.sampled_from([None, b"1", b"2"])))
    if kind == "transfer":
        return partial(journal.transfer, payer, data.draw(st.sampled_from((*PAYERS, OPERATOR, "r"))), amount)
    number = data.draw(st.integers(0, 5))
    if kind == "accept":
        return partial(journal.accept, new_job(number, hold=10 * (1 + number % 3), payer=PAYERS[number % 2]))
    tries = herd.given.setdefault(job_id(number), [])
    if kind == "assign":
        fence = next(herd.fences)
        tries.append((epoch, fence))
        return partial(journal.assign, job_id(number), "w", fence, epoch)
    if kind == "raise":
        return partial(journal.raise_hold, job_id(number), 10 * (1 + number % 3) + amount, float(1 + amount), epoch)
    if kind == "refuse":
        return partial(journal.refuse, job_id(number), epoch, REFUSED)
    tried_epoch, fence = data.draw(st.sampled_from(tries or [(epoch, 0)]))
    if kind == "requeue":
        return partial(journal.requeue, job_id(number), fence, tried_epoch, max_tries=data.draw(st.integers(1, 3)))
    refunds = data.draw(st.booleans())
    return partial(journal.settle, settled(number, epoch=tried_epoch, fence=fence, is_refunded=refunds))


@quickly
@given(data=st.data())
def test_money_is_constant(new_database: NewDatabase, data: st.DataObject) -> None:
    async def go() -> None:
        herd = Herd(new_database())
        await herd.new_leader()
        try:
            await herd.journal.mint("p", 100)
            await herd.journal.mint("q", 100)
            for _ in range(data.draw(st.integers(1, 12), "rounds")):
                if data.draw(st.integers(0, 5), "crash") == 5:
                    await herd.new_leader()
                steps = [money_step(herd, data) for _ in range(data.draw(st.integers(1, 8), "together"))]
                await asyncio.gather(*(told(step()) for step in steps))
                await check_books(herd.journal)
        finally:
            await herd.close()

    asyncio.run(go())


async def check_books(journal: Journal) -> None:
    supply = await journal.supply()
    assert supply.minted == supply.free + supply.held
    payments = await journal.payments(max_entries=10_000)
    jobs = [job for job in [await journal.find(job_id(number)) for number in range(6)] if job is not None]
    waiting = [job for job in jobs if job.state in ("queued", "running")]
    assert [job.id for job in await journal.waiting()] == [job.id for job in sorted(waiting, key=lambda job: job.seq)]
    balances = await journal.balances()
    for payer in PAYERS:
        assert balances[payer].held == sum(job.hold for job in waiting if job.payer == payer)
    earned = sum(payment.amount for payment in payments if payment.kind == "settle")
    moved = sum(payment.amount for payment in payments if payment.kind == "transfer" and payment.target == OPERATOR)
    operator = balances.get(OPERATOR)
    assert (operator.free if operator else 0) == earned + moved
    for job in jobs:
        moved_for = [payment for payment in reversed(payments) if payment.job == job.id]
        holds = [payment.amount for payment in moved_for if payment.kind == "hold"]
        assert sum(holds) == job.hold
        assert [payment.kind for payment in moved_for] == ["hold"] * (len(holds) - 1) + kinds_of(job)
        assert all(payment.amount == job.hold for payment in moved_for[len(holds) :])
    assert len(jobs) == len({payment.job for payment in payments if payment.kind == "hold"})


def kinds_of(job: JobRow) -> list[str]:
    """How the money of a job must have gone."""
    if job.state in ("queued", "running"):
        return ["hold"]
    return ["hold", "refund" if job.state == "refused" or job.is_refunded else "settle"]


# -- heads


@quickly
@given(data=st.data())
def test_a_call_happens_exactly_once(new_database: NewDatabase, data: st.DataObject) -> None:
    """Calls of two chats, each adding a token of its own, tried by workers that know old states, under old leaders."""

    async def go() -> None:
        herd = Herd(new_database())
        await herd.new_leader()
        n_calls = data.draw(st.integers(1, 8), "calls")
        paths = [path_of("a"), path_of("b")]
        copies = {path: [Talk(path)] for path in paths}  # what workers have of each chat, of old and new
        done: dict[int, str] = {}
        try:
            for _ in range(data.draw(st.integers(1, 25), "tries")):
                if data.draw(st.integers(0, 6), "crash") == 6:
                    await herd.new_leader()
                together = []
                for _ in range(data.draw(st.integers(1, 3), "together")):
                    number = data.draw(st.integers(0, n_calls - 1))
                    path = paths[number % 2]
                    copy = data.draw(st.sampled_from(copies[path]))
                    worker = Talk(path, copy.state)
                    journal, epoch = data.draw(st.sampled_from(herd.leaders), "leader")
                    keep = data.draw(st.sampled_from([None, 0, len(worker.tokens) // 2])) if worker.tokens else None
                    change = worker.change(data.draw(st.sampled_from([[number], [number, 1], []])), keep=keep)
                    copies[path].append(worker)
                    step = settled(number, epoch=epoch, fence=next(herd.fences), new=new_job(number), chats=(change,))
                    together.append((number, worker, partial(journal.settle, step)))
                outcomes = await asyncio.gather(*(settle() for *_, settle in together))
                ended = zip(together, outcomes, strict=True)
                # Two leaders have a writer each, so that the second of two may be the one that was done.
                for (number, worker, _), outcome in sorted(ended, key=lambda one: one[1].outcome != "done"):
                    if outcome.outcome == "done":
                        assert number not in done
                        done[number] = worker.path
                    elif outcome.outcome == "known":
                        assert number in done
                for path in paths:
                    found = await herd.journal.container(CANISTER, CALLER, path)
                    head, container = found or (b"", b"")
                    assert any(copy.head == head for copy in copies[path])
                    if found is not None:
                        assert container in [copy.container() for copy in copies[path] if copy.head == head]
            for number in range(n_calls):
                assert (await herd.journal.find(job_id(number)) is not None) == (number in done)
            logged = await herd.journal.call_log(CANISTER, None, None, 100)
            assert len(logged) == len(done)
            if done:
                assert await herd.journal.cycles(CANISTER) == INITIAL_CYCLES - len(done) * CHARGE.cycles
        finally:
            await herd.close()

    asyncio.run(go())
