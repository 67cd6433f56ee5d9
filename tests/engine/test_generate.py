"""What one call does, on real models: limits, ends, queries, cancelling, shifting, the logits at hand."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from canister.engine.llama_types import EngineFault
from canister.engine.request import GenerateRequest, GenerateResult, Sampled
from canister.errors import BadRequest, Conflict
from canister.flags.params import SamplingParams
from tests.engine.driver import GREEDY, NOTHING, Chat, Driver, Turnstile, cancel
from tests.engine.test_batch_invariance import ENDLESS, SAMPLED, some_prompt

Drive = Callable[..., Driver]

STORY = "Once upon a time"


def plain_greedy(path: Path, prompt: list[int], n: int) -> list[int]:
    """llama.cpp without us: one stream, the prompt at once, then the likeliest token again and again."""
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.flash_attn_type, params.n_threads = 512, 0, 1
    context = llama_cpp.llama_init_from_model(model, params)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    answer: list[int] = []
    given = prompt
    for _ in range(n):
        tokens = (ctypes.c_int32 * len(given))(*given)
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(given))) == 0
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (n_vocab,))
        given = [int(logits.argmax())]
        answer += given
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return answer


@pytest.mark.parametrize("model", ["story", "chat", "q8_0"])
def test_greedy_is_plain_llama_cpp(drive: Drive, model_path: Callable[[str], Path], model: str) -> None:
    driver = drive(model, n_slots=2, n_ctx=512)
    prompt = driver.engine.tokenize(STORY, add_bos=True)
    result = driver.run(driver.chat().call(prompt, n_predict=100))
    assert result.sampled == plain_greedy(model_path(model), prompt, len(result.sampled))
    assert len(result.sampled) == 100 or result.eog


def test_counts_and_limits(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=100, n_batch=8)
    prompt = some_prompt(1, 19)  # 20 tokens with BOS
    chat = driver.chat("k")
    result = driver.run(chat.call(prompt, max_decode=10))
    assert (result.finish, result.prompt_chunks, result.sampled) == ("length", [8, 2], [])
    result = driver.run(chat.call(max_decode=10))
    assert (result.finish, result.prompt_chunks, result.sampled) == ("length", [8, 2], [])
    result = driver.run(chat.call(max_decode=4))
    assert (result.finish, result.prompt_chunks, len(result.sampled), result.n_generated) == ("length", [], 4, 4)
    result = driver.run(chat.call(n_predict=3))
    assert (result.finish, len(result.sampled), result.n_generated) == ("length", 3, 2)
    again = driver.run(chat.call(n_predict=1))
    assert (again.sampled, again.n_generated) == (result.sampled[-1:], 0)
    nothing = driver.run(chat.call(n_predict=0))
    assert (nothing.finish, nothing.sampled, nothing.rows) == ("length", [], b"")
    assert driver.run(chat.call(max_decode=0)).finish == "length"
    assert len(chat.tokens) == 26
    assert driver.engine.residents() == {"k": 26}


def test_single_token_chunks(drive: Drive) -> None:
    driver = drive("f32", n_slots=2, n_ctx=100, n_batch=1)
    result = driver.run(driver.chat("k").call(some_prompt(1, 5), n_predict=2))
    assert result.prompt_chunks == [1] * 6


def test_context_full(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=64)
    chat = driver.chat("k", sampling=replace(GREEDY, ignore_eos=True))
    result = driver.run(chat.call(some_prompt(1, 40)))
    assert (result.finish, result.n_generated, len(result.sampled)) == ("length", 23, 23)
    assert len(chat.tokens) == 64
    full = driver.run(chat.call())
    assert (full.finish, full.sampled, full.n_generated) == ("length", [], 0)
    driver.engine.forget("k")
    assert driver.run(chat.call()).sampled == []
    too_long = driver.run(driver.chat("l").call(some_prompt(2, 99)))
    assert (too_long.finish, too_long.n_prompt_decoded) == ("length", 64)


def test_a_full_neighbour_still_has_a_cell_for_dummies(drive: Drive) -> None:
    driver = drive("f32", n_slots=2, n_ctx=64)
    endless = replace(GREEDY, ignore_eos=True)
    full, other = driver.chat("full", sampling=endless), driver.chat("other", sampling=endless)
    driver.run(full.call(some_prompt(1, 62)))
    alone = driver.run(driver.chat(None, sampling=endless).call(some_prompt(2), n_predict=20)).sampled
    driver.run(full.call(some_prompt(1, 62)))
    assert driver.run(other.call(some_prompt(2), n_predict=20)).sampled == alone


@pytest.mark.parametrize("model", ["story", "q8_0"])
def test_context_shift(drive: Drive, model: str) -> None:
    driver = drive(model, n_slots=2, n_ctx=64)
    chat = driver.chat("k", context_shift=True, n_keep=4, sampling=replace(GREEDY, ignore_eos=True))
    result = driver.run(chat.call(some_prompt(1), n_predict=200))
    assert (result.finish, len(result.sampled), result.shifted, result.rows) == ("length", 200, True, b"")
    assert driver.engine.residents() == {"k": 0}
    until_full = driver.run(chat.call(n_predict=-2))
    assert (until_full.finish, until_full.shifted) == ("length", False)
    assert len(chat.tokens) == 64


def test_end_of_generation_is_kept(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=100)
    eos = 2
    ends = SamplingParams(temperature=0.0, logit_bias=((eos, 1000.0),))
    chat = driver.chat("k", sampling=ends)
    result = driver.run(chat.call(some_prompt(1)))
    assert (result.finish, result.eog, result.sampled, result.n_generated) == ("stop", True, [eos], 1)
    assert chat.tokens[-1] == eos
    last = driver.run(driver.chat("l", sampling=ends).call(some_prompt(1), n_predict=1))
    assert (last.finish, last.eog, last.n_generated) == ("stop", True, 0)


def test_reverse_prompt(drive: Drive) -> None:
    driver = drive("story", n_slots=2, n_ctx=200)
    chat = driver.chat("k", reverse_prompts=("Lily",))
    result = driver.run(chat.call(driver.engine.tokenize(STORY, True)))
    assert result.finish == "stop"
    assert result.n_generated == len(result.sampled)
    text = b"".join(driver.engine.piece(token, False) for token in result.sampled)
    assert text.decode()[-6:].count("Lily") == 1


@pytest.mark.parametrize("model", ["f32", "q8_0", "mamba"])
def test_queries_roll_back(drive: Drive, model: str) -> None:
    driver = drive(model, n_slots=2, n_ctx=200)
    chat, twin = driver.chat("k", sampling=SAMPLED), driver.chat("twin", sampling=SAMPLED)
    for each in (chat, twin):
        driver.run(each.answer(some_prompt(1), 10))
    queries = [
        driver.run(chat.call([], keep=False, n_predict=15)),
        driver.run(chat.copy("k").call(some_prompt(5), keep=False, n_predict=15)),
        driver.run(chat.call([], keep=False, n_predict=15)),
    ]
    assert queries[0].sampled == queries[2].sampled
    assert not any(query.rows for query in queries)
    assert driver.run(chat.answer([], 10)) == driver.run(twin.answer([], 10))


def test_logits_at_hand_need_no_decode(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    chat = driver.chat("k")
    driver.run(chat.answer(some_prompt(1), 5))
    n_rows = driver.engine.stats().n_rows
    assert len(driver.run(chat.call(n_predict=1)).sampled) == 1
    assert driver.engine.stats().n_rows == n_rows
    driver.engine.forget("k")
    assert driver.run(chat.call(n_predict=1)).redecoded == 0


@pytest.mark.parametrize("model", ["f32", "q8_0", "gemma", "mamba"])
@pytest.mark.parametrize("n_decodes", [0, 1, 3, 12])
def test_cancel_leaves_no_trace(drive: Drive, model: str, n_decodes: int) -> None:
    """Cancelled somewhere in a long prompt or in generation; then as if it had never run."""
    driver = drive(model, n_slots=2, n_ctx=500)
    chat, twin = driver.chat("k", sampling=SAMPLED), driver.chat("twin", sampling=SAMPLED)
    for each in (chat, twin):
        driver.run(each.answer(some_prompt(1), 5))

    async def cancelled(prompt: list[int]) -> None:
        with Turnstile(driver.engine, n_decodes) as turnstile:
            task = asyncio.create_task(chat.copy("k").call(prompt, n_predict=1000, sampling=ENDLESS))
            await turnstile.reached()
            await cancel(task)
        with pytest.raises(asyncio.CancelledError):
            await task

    driver.run(cancelled(some_prompt(2, 300)))
    driver.run(cancelled([]))
    assert driver.engine.stats().n_running == driver.engine.stats().n_waiting == 0
    assert driver.run(chat.answer([], 10)) == driver.run(twin.answer([], 10))


def test_a_crowd_of_calls_does_not_delay_another_caller(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=1, n_ctx=200)
    ended: list[str] = []

    async def call(caller: str, key: str) -> None:
        await driver.chat(key, caller=caller).call(some_prompt(len(key), 20), n_predict=10)
        ended.append(caller)

    async def play() -> None:
        crowd = [asyncio.create_task(call("crowd", f"chat {i}")) for i in range(30)]
        await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
        n_before = len(ended)
        await call("other", "other")
        # One more of the crowd was running; what a loop sees of a thread may be a step late.
        assert len(ended) <= n_before + 3
        await asyncio.gather(*crowd)

    driver.run(play())
    assert len(ended) == 31


def test_cancel_just_before_a_chunk_is_decoded(drive: Drive) -> None:
    """The thread has scheduled the chunk already; the abort flag would be set too early."""
    driver = drive("q8_0", n_slots=2, n_ctx=500)
    engine = driver.engine

    async def play() -> None:
        loop, rearm, seen = asyncio.get_running_loop(), engine._core.runner.rearm, threading.Event()
        task = asyncio.create_task(driver.chat("k").call(some_prompt(1, 300)))

        async def cancel_now() -> None:
            await cancel(task)
            seen.set()

        def rearm_late() -> None:
            rearm()
            if not seen.is_set():
                asyncio.run_coroutine_threadsafe(cancel_now(), loop)
                seen.wait()

        engine._core.runner.rearm = rearm_late  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await task

    driver.run(play())
    assert engine.stats().n_prompt_tokens == 0
    assert engine.stats().n_cancelled == 1


def test_cancel_does_not_disturb_neighbours(drive: Drive) -> None:
    driver = drive("f32", n_slots=3, n_ctx=500)
    alone = driver.run(driver.chat(None, sampling=SAMPLED).answer(some_prompt(1, 100), 40))

    async def play() -> list[int]:
        chat = asyncio.create_task(driver.chat("k", sampling=SAMPLED).answer(some_prompt(1, 100), 40))
        for i in range(20):
            with Turnstile(driver.engine, 1 + i % 4) as turnstile:
                task = asyncio.create_task(driver.chat(f"noise {i}").call(some_prompt(i, 400), n_predict=50))
                await turnstile.reached()
                await cancel(task)
            with pytest.raises(asyncio.CancelledError):
                await task
        return await chat

    assert driver.run(play()) == alone


def test_a_late_abort_changes_nothing(drive: Drive) -> None:
    """The flag may hit any decode, of whomever: it is done again."""
    driver = drive("q8_0", n_slots=3, n_ctx=500)
    alone = [driver.run(driver.chat(None, sampling=SAMPLED).answer(some_prompt(i, 200), 60)) for i in range(3)]

    async def play() -> list[list[int]]:
        chats = [driver.chat(str(i), sampling=SAMPLED).answer(some_prompt(i, 200), 60) for i in range(3)]
        tasks = [asyncio.create_task(chat) for chat in chats]
        pause_seconds = 0.001
        while not all(task.done() for task in tasks):
            driver.engine._core.runner.abort()
            await asyncio.sleep(pause_seconds)
            pause_seconds *= 1.1  # in the end there is time for a chunk between two of them
        return [task.result() for task in tasks]

    assert driver.run(play()) == alone


@dataclass
class Allowance:
    """A budget of so many decoded tokens and samples together; notes what it was asked."""

    left: int
    asked: list[tuple[str, int]] = field(default_factory=list)

    def admit_prompt(self, position: int, n_wanted: int) -> int:
        self.asked.append(("prompt", position))
        n = min(self.left, n_wanted)
        self.left -= n
        return n

    def admit_sample(self, position: int) -> bool:
        self.asked.append(("sample", position))
        return self.left > 0

    def admit_decode(self, position: int) -> bool:
        self.asked.append(("decode", position))
        self.left -= 1
        return self.left >= 0


def test_budget(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200, n_batch=16)
    whole = driver.run(driver.chat(None).answer(some_prompt(1), 20))
    chat = driver.chat("k")
    finishes = [driver.run(chat.call(some_prompt(1), budget=Allowance(7))).finish]
    while len(chat.sampled) < 20:
        budget = Allowance(7)
        result = driver.run(chat.call(budget=budget))
        assert result.n_prompt_decoded + result.n_generated == 7
        assert len(result.sampled) == result.n_generated
        finishes.append(result.finish)
    assert set(finishes) == {"instructions"}
    assert chat.sampled[:20] == whole
    budget = Allowance(3)
    position = len(chat.tokens)
    driver.run(chat.call(budget=budget))
    assert budget.asked[:3] == [("sample", position), ("decode", position), ("sample", position + 1)]


def test_a_failing_budget_fails_its_call_alone(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)

    class Trap(Allowance):
        def admit_decode(self, position: int) -> bool:
            if position > 35:
                raise KeyError("over")
            return True

    chat, good = driver.chat("k", seed=5), driver.chat("l")

    async def play() -> tuple[object, object]:
        return await asyncio.gather(
            chat.call(some_prompt(1), budget=Trap(100)), good.answer(some_prompt(1), 20), return_exceptions=True
        )

    failed, answered = driver.run(play())
    assert isinstance(failed, KeyError)
    assert answered == driver.run(driver.chat(None).answer(some_prompt(1), 20))
    assert "k" not in driver.engine.residents() or driver.engine.residents()["k"] == 0


def test_a_call_that_was_not_committed_is_done_again(drive: Drive) -> None:
    """The engine has it in its memory, the caller's container not."""
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    chat = driver.chat("k", sampling=SAMPLED)
    driver.run(chat.answer(some_prompt(1), 10))
    first, again = (driver.run(chat.copy("k").call(some_prompt(2), n_predict=10)) for _ in range(2))
    assert (again.sampled, again.rows, again.redecoded) == (first.sampled, first.rows, 0)
    assert (
        driver.run(chat.answer([], 10))
        == driver.run(driver.chat(None, sampling=SAMPLED).answer(some_prompt(1), 20))[10:]
    )


def test_after_a_bug_every_call_gets_an_error(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)

    def broken() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(driver.engine._core.scheduler, "schedule", broken)
    calls = [driver.chat().call(some_prompt(1), n_predict=3) for _ in range(3)]

    async def play() -> list[object]:
        return [*await asyncio.gather(*calls, return_exceptions=True)]

    assert [str(error) for error in driver.run(play())] == ["the engine has stopped: oh"] * 3
    with pytest.raises(EngineFault):
        driver.run(driver.chat().call(some_prompt(1)))


def test_damaged_rows_are_decoded_again(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    chat = driver.chat("k")
    whole = driver.run(chat.answer(some_prompt(1), 10, [8] * 9))
    n = len(chat.segments)
    driver.engine.forget("k")
    for damage in (b"", b"KVR1", chat.segments[1].rows, chat.segments[2].rows[:-1], b"\0" * 4000):
        broken = chat.copy("broken")
        broken.segments[2] = replace(broken.segments[2], rows=damage)
        first = broken.segments[2].first
        driver.engine.forget("broken")
        result = driver.run(broken.call([5], n_predict=0))
        assert (result.redecoded, result.rows_first) == (len(chat.tokens) - first, first)
        assert len(broken.segments) == 3 < n
        driver.engine.forget("broken")
        assert driver.run(broken.call([6], n_predict=0)).redecoded == 0
    assert whole == driver.run(driver.chat(None).answer(some_prompt(1), 10))


def test_rows_that_a_query_decoded_again_are_handed_out_later(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    chat = driver.chat("k")
    driver.run(chat.answer(some_prompt(1), 10))
    chat.segments = []
    driver.engine.forget("k")
    assert driver.run(chat.call([], keep=False, want_rows=False, n_predict=1)).redecoded == len(chat.tokens)
    result = driver.run(chat.call([7], n_predict=0))
    assert (result.redecoded, result.rows_first) == (0, 0)
    assert chat.segments[0].count == len(chat.tokens)


def test_same_key_waits(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=3, n_ctx=200)
    chat = driver.chat("k")
    driver.run(chat.call(some_prompt(1), n_predict=0))
    results = driver.together(*(chat.copy("k").call(n_predict=20) for _ in range(4)))
    assert all(result.sampled == results[0].sampled for result in results)


def test_tokens_as_they_come(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    seen: list[Sampled] = []
    result = driver.run(driver.chat(None).call(some_prompt(1), n_predict=30, on_tokens=seen.extend))
    assert seen == [Sampled(token) for token in result.sampled]
    assert result.details == []


def test_later_tokens_may_come_together_the_first_one_comes_alone(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    seen: list[list[Sampled]] = []
    result = driver.run(driver.chat(None).call(some_prompt(1), n_predict=30, on_tokens=seen.append))
    assert len(seen[0]) == 1
    assert [token for together in seen for token in together] == [Sampled(token) for token in result.sampled]


def test_bad_requests(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=64)

    def refused(request: GenerateRequest) -> str:
        with pytest.raises(BadRequest) as caught:
            driver.run(driver.engine.generate(request))
        return str(caught.value)

    def tokens(*values: int) -> np.ndarray:
        return np.array(values, np.int32)

    assert refused(NOTHING) == "input is empty"
    assert "512" in refused(replace(NOTHING, prompt=tokens(1, 512)))
    assert "512" in refused(replace(NOTHING, prompt=tokens(-1)))
    flags = np.zeros(65, np.bool_)
    assert "context" in refused(replace(NOTHING, prefix=tokens(*[1] * 65), prefix_generated=flags))
    one = replace(NOTHING, prompt=tokens(1))
    assert "grammar" in refused(replace(one, sampling=SamplingParams(grammar="root ::= (")))
    assert "schema" in refused(replace(one, sampling=SamplingParams(json_schema="{")))


def test_close(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=500)
    chats = [driver.chat(str(i)) for i in range(4)]

    async def play(drain: bool) -> list[GenerateResult]:
        with Turnstile(driver.engine, 5) as turnstile:
            tasks = [asyncio.create_task(chat.call(some_prompt(i), n_predict=100)) for i, chat in enumerate(chats)]
            await turnstile.reached()
            closing = asyncio.create_task(driver.engine.close(drain=drain))
            await asyncio.sleep(0)  # the engine is told
        await closing
        with pytest.raises(Conflict):
            await chats[0].call([1])
        with pytest.raises(Conflict):
            driver.engine.tokenize("a", add_bos=True)
        return await asyncio.gather(*tasks)

    assert [len(result.sampled) for result in driver.run(play(drain=True))] == [100] * 4
    driver = drive("q8_0", n_slots=2, n_ctx=500)
    chats = [Chat(driver.engine, None, NOTHING) for _ in range(4)]
    assert {result.finish for result in driver.run(play(drain=False))} == {"cancelled"}
