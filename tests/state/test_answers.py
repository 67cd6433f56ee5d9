"""Answers that are kept: found by id and by key, bounded for each caller, forgotten when old."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canister.errors import BadArgument, CallerBusy, NotFound, StorageFull
from canister.runtime.canister import Canister
from canister.state import answer_copies
from canister.state.answers import TOLD, AnswerLimits, Answers, KeptCall, StoredRequest
from tests.harness import CONTROLLER, Harness, canister_in

pytestmark = pytest.mark.anyio

LIMITS = AnswerLimits(kept_seconds=3600, max_answers=3, max_bytes=100_000)
TAKEN = {"n_calls": 1, "finish": None}


def asked(id: str, caller: str = "me", key: str | None = None, **fields: Any) -> StoredRequest:
    made = StoredRequest(id, caller, "responses", b"hash", '{"a":1}', '{"b":2}', b"1234", time.time_ns(), key)
    return replace(made, **fields)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path) as found:
        yield found


@pytest.fixture
def answers(harness: Harness) -> Answers:
    return harness.canister.answers


async def add_calls(canister: Canister, id: str, *calls: KeptCall) -> None:
    for call in calls:
        transaction = canister.stable.begin()
        canister.answers.add_call(transaction, id, call)
        await canister.commit(transaction)


def reloaded(canister: Canister) -> Answers:
    again = Answers(canister.database)
    again.load()
    return again


async def test_one_is_found_by_its_id_and_by_its_key(answers: Answers) -> None:
    one = asked("one", key="k")
    kept = await answers.begin(one, LIMITS)
    assert (kept.asked, kept.status, kept.ended_ns) == (one, "running", None)
    assert answers.find("one") == answers.find_key("me", "k") == kept
    assert answers.find("two") is None
    assert answers.find_key("you", "k") is None


async def test_the_same_key_finds_what_was_begun_first(answers: Answers) -> None:
    first = await answers.begin(asked("one", key="k"), LIMITS)
    assert await answers.begin(asked("two", key="k"), LIMITS) == first
    assert (await answers.begin(asked("three", "you", "k"), LIMITS)).asked.id == "three"
    assert answers.find("two") is None


async def test_calls_are_kept_with_their_commit_alone(harness: Harness, answers: Answers) -> None:
    await answers.begin(asked("one"), LIMITS)
    calls = [KeptCall(choice, number, f'["{choice}{number}"]', TAKEN) for choice in (0, 1) for number in (0, 1)]
    await add_calls(harness.canister, "one", *reversed(calls))
    lost = harness.canister.stable.begin()
    answers.add_call(lost, "one", KeptCall(0, 2, "[]", TAKEN))
    lost.rollback()
    assert answers.calls("one") == calls
    assert reloaded(harness.canister).n_bytes == answers.n_bytes > 0


async def test_one_ends_once_and_what_failed_or_was_left_can_go_on(answers: Answers) -> None:
    for id in ("one", "two", "three"):
        await answers.begin(asked(id), LIMITS)
    await answers.end("one", "failed", {"message": "no"})
    await answers.end("one", "done")
    await answers.end("two", "cancelled")
    await answers.end("three", "left")
    found = [answers.find(id) for id in ("one", "two", "three")]
    assert [kept and kept.status for kept in found] == ["failed", "cancelled", "left"]
    assert found[0] is not None
    assert found[0].error == {"message": "no"}
    for id in ("one", "two", "three"):
        await answers.go_on(id)
    assert [kept.asked.id for kept in answers.running()] == ["one", "three"]
    assert answers.running()[0].error is None


async def test_what_was_told_beyond_the_calls_stays_when_the_end_is_said_again(answers: Answers) -> None:
    await answers.begin(asked("one"), LIMITS)
    told = [KeptCall(0, TOLD, '["told"]', {})]
    await answers.end("one", "cancelled", told=told)
    n_bytes = answers.n_bytes
    await answers.end("one", "cancelled")
    assert answers.calls("one") == told
    assert answers.n_bytes == n_bytes


async def test_after_a_start_those_that_go_on_alone_are_running(harness: Harness, answers: Answers) -> None:
    await answers.begin(asked("one", goes_on=True), LIMITS)
    await answers.begin(asked("two"), LIMITS)
    again = reloaded(harness.canister)
    assert [kept.asked.id for kept in again.running()] == ["one"]
    left = again.find("two")
    assert left is not None
    assert left.status == "left"


async def test_removed_with_its_calls(harness: Harness, answers: Answers) -> None:
    await answers.begin(asked("one"), LIMITS)
    await add_calls(harness.canister, "one", KeptCall(0, 0, "[]", TAKEN))
    await answers.remove("one")
    assert answers.calls("one") == []
    assert answers.n_bytes == 0
    with pytest.raises(NotFound, match="one"):
        await answers.remove("one")


async def test_a_call_of_one_that_was_removed_fails_whole(harness: Harness, answers: Answers) -> None:
    await answers.begin(asked("one"), LIMITS)
    transaction = harness.canister.stable.begin()
    transaction.write_file("a.txt", b"a")
    answers.add_call(transaction, "one", KeptCall(0, 0, "[]", TAKEN))
    await answers.remove("one")
    with pytest.raises(Exception, match="FOREIGN KEY"):
        await harness.canister.commit(transaction)
    await harness.canister.rollback(transaction)
    assert harness.canister.stable.stat("a.txt") is None


async def test_the_oldest_that_have_ended_make_room(answers: Answers) -> None:
    for id in ("one", "two", "three"):
        await answers.begin(asked(id), LIMITS)
    with pytest.raises(CallerBusy, match="max_answers_per_caller = 3"):
        await answers.begin(asked("four"), LIMITS)
    await answers.end("two", "done")
    await answers.begin(asked("four"), LIMITS)
    assert answers.find("two") is None
    await answers.begin(asked("five", "you"), LIMITS)  # another's count for nothing
    assert [kept.asked.id for kept in answers.running()] == ["one", "three", "four", "five"]


async def test_bytes_of_a_caller_are_bounded(harness: Harness, answers: Answers) -> None:
    await answers.begin(asked("one", request="x" * 60_000), LIMITS)
    with pytest.raises(StorageFull, match="max_answer_bytes_per_caller = 100000"):
        await answers.begin(asked("two", request="x" * 60_000), LIMITS)
    await answers.end("one", "done")
    await answers.begin(asked("two", request="x" * 60_000), LIMITS)
    assert answers.find("one") is None
    assert reloaded(harness.canister).n_bytes == answers.n_bytes


async def test_old_ones_are_forgotten(harness: Harness, answers: Answers) -> None:
    old = time.time_ns() - 3601 * 10**9
    for id in ("ended", "running"):
        await answers.begin(asked(id, created_ns=old), LIMITS)
    await answers.begin(asked("young"), LIMITS)
    await answers.end("ended", "done")
    await answers.purge()
    assert answers.find("ended") is None
    assert [kept.asked.id for kept in answers.running()] == ["running", "young"]
    assert reloaded(harness.canister).n_bytes == answers.n_bytes


async def test_what_is_kept_counts_in_stable_memory(tmp_path: Path) -> None:
    async with canister_in(tmp_path, max_stable_bytes=10_000) as harness:
        await harness.canister.answers.begin(asked("one", CONTROLLER, request="x" * 8000), LIMITS)
        chunk = {"filename": "a", "chunk": bytes(3000), "chunksize": 3000, "offset": 0}
        assert "max_stable_bytes = 10000" in await harness.fails("file_upload_chunk", chunk)
        await harness.canister.answers.remove("one")
        await harness.call("file_upload_chunk", chunk)


async def test_a_copy_is_had_as_if_it_had_been_made_here(harness: Harness, answers: Answers) -> None:
    """Also in place of one of the same key; all bytes are counted."""
    one = asked("one", key="k", is_listed=True)
    await answers.begin(one, LIMITS)
    await add_calls(harness.canister, "one", KeptCall(0, 0, "[[1]]", TAKEN), KeptCall(1, 0, "[[2]]", TAKEN))
    await answers.end("one", "failed", {"message": "no"})
    kept, calls = answers.find("one"), answers.calls("one")
    assert kept is not None
    copy, n_bytes = answer_copies.encode(kept, calls), answers.n_bytes
    await answers.forget("me", "one", None)
    assert (answers.find("one"), answers.n_bytes) == (None, 0)
    await answers.begin(asked("other", key="k"), LIMITS)
    await answers.put(*answer_copies.decode(copy), 3600)
    assert (answers.find("one"), answers.calls("one"), answers.n_bytes) == (kept, calls, n_bytes)
    assert answers.find("other") is None
    await answers.put(*answer_copies.decode(copy), 3600)
    assert (answers.calls("one"), reloaded(harness.canister).n_bytes) == (calls, n_bytes)


@pytest.mark.parametrize("data", [b"", b"\xa0", b"\x01", b"nonsense"])
def test_what_is_no_copy_is_refused(data: bytes) -> None:
    with pytest.raises(BadArgument):
        answer_copies.decode(data)


async def test_what_is_forgotten_is_the_callers_own(answers: Answers) -> None:
    """By a key also the parts of its request, and nothing that begins alike."""
    for one in (
        asked("a", key="k"),
        asked("b", key="k\n1"),
        asked("c", key="k2"),
        asked("d", "you", key="k"),
        asked("e"),
    ):
        await answers.begin(one, replace(LIMITS, max_answers=9))
    await answers.forget("you", "e", None)
    assert sorted(answers.ids("me", None, "k")) == ["a", "b"]
    assert sorted(answers.ids("me", "e", "k")) == ["a", "b", "e"]
    await answers.forget("me", "e", "k")
    assert [id for id in "abcde" if answers.find(id) is not None] == ["c", "d"]
