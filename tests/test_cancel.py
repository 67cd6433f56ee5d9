"""Calls that are cancelled, or whose time is over: afterwards everything is as if they had never been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from canister.errors import CallTimeout
from tests.harness import GREEDY, STORY_MODEL, Harness, canister_in, needs_story_model
from tests.traces import trace, until

pytestmark = [pytest.mark.anyio, needs_story_model]

PROMPT = "Once upon a time"
ENDLESS = (*GREEDY, "-n", "-1", "--ignore-eos", "--context-shift")
CHAT = (*GREEDY, "-n", "12")


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path, slots=1, instruction_limit=None, query_instruction_limit=None) as harness:
        await harness.load(STORY_MODEL, "--ctx-size", "256")
        await harness.call("chats_resume")
        yield harness


def timeout(harness: Harness, seconds: float | None) -> None:
    """Change a canister's settings as a restart with other ones would."""
    canister = harness.canister
    canister.settings = canister.settings.model_copy(update={"call_timeout": seconds})


def running(harness: Harness) -> int:
    assert harness.canister.model.engine is not None
    return harness.canister.model.engine.stats().n_running


def waiting(harness: Harness) -> int:
    assert harness.canister.model.engine is not None
    return harness.canister.model.engine.stats().n_waiting


def endless(harness: Harness, prompt: str, *flags: str, **more: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(harness.run(prompt, *ENDLESS, *flags, **more))


async def test_a_call_that_takes_too_long_leaves_no_trace(story: Harness) -> None:
    twin = [(await story.run(text, *CHAT, cache="twin")).conversation for text in (PROMPT, "")]
    first = await story.run(PROMPT, *CHAT)
    before = trace(story.canister)
    timeout(story, 0.05)
    with pytest.raises(CallTimeout, match=r"run_update on canister .* within 0.05 seconds \(--call-timeout\)"):
        await endless(story, "")
    timeout(story, None)
    assert trace(story.canister) == before
    assert running(story) == waiting(story) == 0
    assert [first.conversation, (await story.run("", *CHAT)).conversation] == twin


async def test_a_cancelled_call_leaves_no_trace(story: Harness) -> None:
    twin = [(await story.run(text, *CHAT, cache="twin")).conversation for text in (PROMPT, "")]
    await story.run(PROMPT, *CHAT)
    before = trace(story.canister)
    call = endless(story, "")
    await until(lambda: running(story) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert trace(story.canister) == before
    assert running(story) == 0
    assert (await story.run("", *CHAT)).conversation == twin[1]


async def test_a_new_chat_that_is_cancelled_was_never_there(story: Harness) -> None:
    before = trace(story.canister)
    call = endless(story, PROMPT, "--log-file", "run.log")
    await until(lambda: running(story) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert trace(story.canister) == before
    assert story.canister.model.engine is not None
    assert set(story.canister.model.engine.residents().values()) <= {0}


async def test_time_is_over_while_waiting_for_a_slot(story: Harness) -> None:
    first = endless(story, PROMPT)
    await until(lambda: running(story) == 1)
    timeout(story, 0.05)
    with pytest.raises(CallTimeout):
        await story.run(PROMPT, *CHAT, cache="other")
    assert (running(story), waiting(story)) == (1, 0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_time_is_over_while_waiting_for_the_same_chat(story: Harness) -> None:
    first = endless(story, PROMPT)
    await until(lambda: running(story) == 1)
    timeout(story, 0.05)
    with pytest.raises(CallTimeout):
        await story.run(PROMPT, *CHAT)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    timeout(story, None)
    assert (await story.run(PROMPT, *CHAT)).n_prompt_tokens_cached == 0


async def test_time_is_over_while_waiting_for_the_callers_turn(tmp_path: Path) -> None:
    async with canister_in(tmp_path, max_calls=1, instruction_limit=None) as story:
        await story.load(STORY_MODEL, "--ctx-size", "256")
        first = endless(story, PROMPT)
        await until(lambda: running(story) == 1)
        timeout(story, 0.05)
        with pytest.raises(CallTimeout, match="run_update"):
            await story.run(PROMPT, *CHAT, cache="other")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        timeout(story, None)
        assert (await story.run(PROMPT, *CHAT)).n_tokens_generated


async def test_a_waiting_call_is_cancelled_beside_a_running_one(story: Harness) -> None:
    first = endless(story, PROMPT)
    await until(lambda: running(story) == 1)
    others = [endless(story, PROMPT, cache=f"other {i}") for i in range(3)]
    await until(lambda: waiting(story) == 3)
    assert story.canister.model.engine is not None
    n_before = story.canister.model.engine.stats().n_cancelled
    for call in others:
        call.cancel()
    results = await asyncio.gather(*others, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert (running(story), waiting(story)) == (1, 0)
    assert story.canister.model.engine.stats().n_cancelled == n_before + 3
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_query_has_a_deadline_too(story: Harness) -> None:
    timeout(story, 0.05)
    with pytest.raises(CallTimeout, match="run_query"):
        await endless(story, PROMPT, query=True)
    assert running(story) == 0


async def test_a_call_in_time_is_not_disturbed(story: Harness) -> None:
    timeout(story, 600)
    assert (await story.run(PROMPT, *CHAT)).n_tokens_generated


async def test_a_commit_that_has_begun_is_finished(story: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()
    commit = story.canister.commit

    async def slow(transaction: Any) -> None:
        began.set()
        await may_end.wait()
        await commit(transaction)

    with monkeypatch.context() as patch:
        patch.setattr(story.canister, "commit", slow)
        call = asyncio.create_task(story.run(PROMPT, *CHAT))
        await began.wait()
        call.cancel()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert (await story.run(PROMPT, *CHAT)).n_prompt_tokens_cached
