"""However a chat is cut into calls, whoever runs beside it, and whatever was spilled or restarted: the same tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.api.records import RunOutputRecord
from tests.engine.driver import Turnstile, cancel
from tests.harness import CHAT_MODEL, STORY_MODEL, Harness, canister_in, needs_story_model, someone

pytestmark = pytest.mark.anyio

MODELS = [
    pytest.param(STORY_MODEL, id="story F32", marks=needs_story_model),
    pytest.param(
        CHAT_MODEL,
        id="chat Q8_0",
        marks=pytest.mark.skipif(not CHAT_MODEL.exists(), reason="the shipped model is not built"),
    ),
]
ANSWER_TOKENS = 24
WORDS = ["once", "upon", "a", "time", "there", "was", "little", "dog", "who", "said", "hello", "what", "is", "name"]

words = st.sampled_from(WORDS)
prompts = st.lists(words, min_size=1, max_size=25).map(" ".join)
samplers = st.fixed_dictionaries(
    {
        "--temp": st.sampled_from(["0", "0.7", "1.3"]),
        "--seed": st.integers(0, 2**32 - 2).map(str),
        "--top-k": st.sampled_from(["0", "5", "40"]),
        "--top-p": st.sampled_from(["0.5", "0.95", "1.0"]),
        "--min-p": st.sampled_from(["0.0", "0.05"]),
        "--repeat-penalty": st.sampled_from(["1.0", "1.1", "1.5"]),
        "--frequency-penalty": st.sampled_from(["0.0", "0.3"]),
        "--presence-penalty": st.sampled_from(["0.0", "0.2"]),
        # Where a grammar refuses the first draw of a token there is a second one: the cache tells how many there were.
        "--grammar": st.sampled_from(["", "", "root ::= ([a-z]+ [ .,!])+"]),
    }
)


def flags_of(options: dict[str, str]) -> list[str]:
    return [text for pair in options.items() for text in pair]


async def in_one_call(harness: Harness, prompt: str, flags: list[str], caller: str) -> RunOutputRecord:
    """The first ANSWER_TOKENS tokens of the answer, uninterrupted, without a cache."""
    return await harness.run(prompt, "-n", str(ANSWER_TOKENS + 1), "-sp", *flags, caller=caller, cache=None)


async def in_many_calls(
    harness: Harness, prompt: str, flags: list[str], caller: str, cache: str, forget: bool = False
) -> RunOutputRecord:
    """The same through as many calls as max_tokens asks for. forget: drop the KV state between calls."""
    record = await harness.run(prompt, "-sp", *flags, caller=caller, cache=cache)
    while record.n_prompt_tokens_remaining:
        if forget:
            forget_all(harness)
        record = await harness.run(prompt, "-sp", *flags, caller=caller, cache=cache)
    n_answer = record.n_tokens_generated or 0
    while n_answer < ANSWER_TOKENS and not record.generated_eog:
        if forget:
            forget_all(harness)
        record = await harness.run("", "-sp", *flags, caller=caller, cache=cache)
        n_answer += record.n_tokens_generated or 0
    await harness.call("remove_prompt_cache", {"args": ["--prompt-cache", cache]}, caller)
    return record


def forget_all(harness: Harness) -> None:
    stable, engine = harness.canister.stable, harness.canister.model.engine
    assert engine is not None
    for entry in stable.walk(".canister_cache", 0) or []:
        engine.forget(entry.path)
    harness.canister.caches.clear()


@pytest.mark.parametrize("model", MODELS)
async def test_calls_of_any_size_give_the_text_of_one_call(model: Path, tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        await harness.load(model, "--ctx-size", "512")
        loop = asyncio.get_running_loop()

        async def check(prompt: str, options: dict[str, str], max_tokens: int, forget: bool) -> None:
            await harness.limit(0)
            whole = await in_one_call(harness, prompt, flags_of(options), someone(0))
            await harness.limit(max_tokens)
            cut = await in_many_calls(harness, prompt, flags_of(options), someone(0), "c", forget)
            shorter = min(len(whole.conversation), len(cut.conversation))
            assert cut.conversation[:shorter] == whole.conversation[:shorter]
            assert whole.generated_eog or len(cut.conversation) >= len(whole.conversation)

        @settings(
            max_examples=25,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        )
        @given(prompts, samplers, st.integers(1, 20), st.booleans())
        def run(prompt: str, options: dict[str, str], max_tokens: int, forget: bool) -> None:
            # Hypothesis drives from a thread of its own; the canister lives on this loop.
            asyncio.run_coroutine_threadsafe(check(prompt, options, max_tokens, forget), loop).result()

        await asyncio.to_thread(run)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("slots", [3, 8])
async def test_twenty_callers_at_once_get_what_each_gets_alone(model: Path, slots: int, tmp_path: Path) -> None:
    async with canister_in(tmp_path, slots=slots) as harness:
        await harness.load(model, "--ctx-size", "512")
        await harness.call("set_access", {"level": 1})
        chats = [
            (
                f"{'Once upon a time ' * (n % 4 + 1)}there was number {n}",
                ["--temp", "0" if n % 3 else "0.9", "--seed", str(n)],
            )
            for n in range(20)
        ]
        alone = [await in_one_call(harness, prompt, flags, someone(n)) for n, (prompt, flags) in enumerate(chats)]
        await harness.limit(4)
        together = await asyncio.gather(
            *(
                in_many_calls(harness, prompt, flags, someone(n), "same.cache")
                for n, (prompt, flags) in enumerate(chats)
            )
        )
        for one, other in zip(alone, together, strict=True):
            shorter = min(len(one.conversation), len(other.conversation))
            assert one.conversation[:shorter] == other.conversation[:shorter]
            assert len(other.conversation) >= len(one.conversation) or one.generated_eog


@needs_story_model
async def test_a_restart_between_any_two_calls_changes_nothing(tmp_path: Path) -> None:
    flags = ["--temp", "0.8", "-sp", "--repeat-penalty", "1.1"]
    prompt = "Once upon a time there was a small boat"
    expected: list[dict[str, Any]] = []
    for name, restart in (("one", False), ("two", True)):
        folder = tmp_path / name
        records: list[RunOutputRecord] = []
        async with AsyncExitStack() as stack:
            harness = await stack.enter_async_context(canister_in(folder))
            await harness.load(STORY_MODEL)
            await harness.limit(3)
            # The seed is drawn at the first call and kept: both runs begin from the same one.
            records.append(await harness.run(prompt, *flags, "--seed", "11"))
            for _ in range(12):
                if restart:
                    await stack.aclose()
                    harness = await stack.enter_async_context(canister_in(folder))
                text = prompt if records[-1].n_prompt_tokens_remaining else ""
                records.append(await harness.run(text, *flags))
        if not expected:
            expected = [record.model_dump() for record in records]
        else:
            assert [record.model_dump() for record in records] == expected


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path) as harness:
        await harness.load(STORY_MODEL)
        yield harness


@needs_story_model
async def test_without_a_seed_one_is_drawn_and_kept(story: Harness) -> None:
    await story.run("Once", "--temp", "1.5", "-n", "0", cache="a")
    await story.call("copy_prompt_cache", {"from": "a", "to": "b"})
    first = await story.run("", "--temp", "1.5", "-n", "20", cache="a")
    second = await story.run("", "--temp", "1.5", "-n", "20", cache="b")
    assert first.output == second.output
    drawn = {(await story.run("Once", "--temp", "1.5", "-n", "20", cache=None)).output for _ in range(3)}
    assert len(drawn) > 1


@needs_story_model
async def test_a_cancelled_call_leaves_no_trace(story: Harness) -> None:
    begun = await story.run("Once upon a time", "--temp", "0", "-n", "5")
    assert story.canister.model.engine is not None
    with Turnstile(story.canister.model.engine, 9) as turnstile:
        task = asyncio.create_task(story.run("", "--temp", "0", "-n", "400", "--ignore-eos"))
        await turnstile.reached()
        await cancel(task)
    with pytest.raises(asyncio.CancelledError):
        await task
    after = await story.run("", "--temp", "0", "-n", "5")
    assert after.n_prompt_tokens_cached == (begun.n_prompt_tokens or 0) + (begun.n_tokens_generated or 0)
    assert after.conversation.startswith(begun.conversation)


@needs_story_model
async def test_a_model_that_does_not_load_leaves_the_one_before_usable(story: Harness) -> None:
    await story.call(
        "file_upload_chunk",
        {"filename": "bad.gguf", "chunk": b"GGUF" + bytes(100), "chunksize": 104, "offset": 0},
    )
    truncated = STORY_MODEL.read_bytes()[:600_000]
    await story.call(
        "file_upload_chunk",
        {"filename": "cut.gguf", "chunk": truncated, "chunksize": len(truncated), "offset": 0},
    )
    for name in ("bad.gguf", "cut.gguf", "missing.gguf"):
        assert name in await story.fails("load_model", {"args": ["--model", name]})
    assert await story.fails("load_model", {"args": []}) == (
        "--model not provided in args. Do not know what model to load."
    )
    assert (await story.run("Once", "-n", "2")).n_tokens_generated == 1


async def test_without_a_model(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        reply = await harness.reply("run_update", {"args": ["-p", "hi"]})
        assert reply.error is not None
        assert reply.value.status_code == 500  # type: ignore[attr-defined]
        assert await harness.fails("ready") == "Model not yet loaded"
