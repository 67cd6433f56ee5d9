"""The thread that writes: one commit for all that waits, nobody told before it, nobody waiting for too many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection

from canister.herd.journal import Journal
from canister.herd.journal.writer import MAX_GROUP, Kind
from tests.herd.journal.parts import Talk, job_id, new_job, path_of, settled

pytestmark = pytest.mark.anyio


@contextmanager
def held(journal: Journal) -> Iterator[None]:
    """Keep the writer busy, so that all that comes meanwhile is one group afterwards."""
    begun, release = threading.Event(), threading.Event()

    def hold(connection: Connection, values: Sequence[None]) -> list[None]:
        begun.set()
        assert release.wait(60)
        return [None] * len(values)

    kind: Kind[None, None] = Kind("hold", 0, hold)
    future = journal._writer.submit(kind, None, 60)
    assert begun.wait(60)
    try:
        yield
    finally:
        release.set()
        future.result()


@pytest.fixture
def commits(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Gets one element for each COMMIT, once the writer is not held any more."""
    commit = journal._writer._commit
    done: list[bool] = []

    def counting(connection: Connection) -> None:
        commit(connection)
        done.append(True)

    monkeypatch.setattr(journal._writer, "_commit", counting)
    return done


async def test_what_waits_is_committed_together(journal: Journal, commits: list[bool]) -> None:
    epoch = await journal.lead("test", "nowhere")
    assert epoch is not None
    await journal.mint("payer", 1000)
    for n in range(20):
        await journal.accept(new_job(n, hold=1, payer="payer"))
    before = len(commits)
    steps = [settled(n, epoch=epoch, fence=1, chats=(Talk(path_of(f"c{n}")).change([n]),)) for n in range(20)]
    with held(journal):
        waiting = [asyncio.ensure_future(journal.settle(step)) for step in steps]
        waiting_too = [asyncio.ensure_future(journal.accept(new_job(100 + n))) for n in range(20)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*waiting)
    accepted = await asyncio.gather(*waiting_too)
    assert all(one.is_new for one in accepted)
    assert {outcome.outcome for outcome in outcomes} == {"done"}
    assert len(commits) == before + 2  # the held one too


async def test_a_group_does_not_grow_without_end(journal: Journal, commits: list[bool]) -> None:
    with held(journal):
        waiting = [asyncio.ensure_future(journal.accept(new_job(n))) for n in range(MAX_GROUP + 1)]
        await asyncio.sleep(0)
    accepted = await asyncio.gather(*waiting)
    assert all(one.is_new for one in accepted)
    assert len(commits) == 3


async def test_what_changes_nothing_is_not_committed(journal: Journal, commits: list[bool]) -> None:
    done = await asyncio.gather(*(journal.transfer("nobody", "b", 1) for _ in range(3)), return_exceptions=True)
    assert {type(error).__name__ for error in done} == {"InsufficientBalance"}
    assert commits == []


async def test_who_gives_up_before_it_is_begun_gets_nothing(journal: Journal) -> None:
    with held(journal):
        waiting = asyncio.ensure_future(journal.accept(new_job(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await journal.find(job_id(1)) is None


async def test_what_waits_is_done_before_it_closes(journal: Journal, journal_url: str) -> None:
    with held(journal):
        waiting = [asyncio.ensure_future(journal.accept(new_job(n))) for n in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(journal.close())
        await asyncio.sleep(0)
    await closing
    accepted = await asyncio.gather(*waiting)
    assert all(one.is_new for one in accepted)
    again = await Journal.open(journal_url)
    assert len(await again.waiting()) == 3
    await again.close()
    await journal.close()
