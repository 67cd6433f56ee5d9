"""When callers are told of tokens and ends, beside the prompts of others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from canister.engine.llama import Context
from canister.engine.request import Sampled
from canister.engine.thread import DecodeThread
from tests.engine.driver import PATIENCE_SECONDS, Driver
from tests.engine.test_batch_invariance import some_prompt


def test_nobody_waits_for_a_chunk_whose_news_are_there_before_it(
    drive: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat's call is told its first token before the step, and has ended after its row, while a chunk is held up."""
    driver = drive("q8_0", n_slots=2, n_ctx=512)
    chat, other = driver.chat("k"), driver.chat("l")
    expected = driver.run(driver.chat(None).call(some_prompt(1, 9), n_predict=1)).sampled
    driver.run(chat.call(some_prompt(1, 9), n_predict=0))
    decode, post = Context.decode, DecodeThread.post
    waits = {name: (threading.Event(), threading.Event()) for name in ("a chunk", "the row", "a chunk beside it")}
    told = asyncio.Queue[int]()

    def held(context: Context, streams: Sequence[int], *rest: Sequence[int]) -> None:
        name = "the row" if len(streams) <= 2 else "a chunk beside it" if waits["the row"][0].is_set() else "a chunk"
        is_held, go_on = waits[name]
        is_held.set()
        assert go_on.wait(PATIENCE_SECONDS)
        decode(context, streams, *rest)

    async def held_at(name: str) -> None:
        assert await asyncio.to_thread(waits[name][0].wait, PATIENCE_SECONDS)

    async def work() -> None:
        is_posted = asyncio.Event()

        def posted(*arguments: Any) -> None:
            post(*arguments)
            is_posted.set()

        def tell(new: list[Sampled]) -> None:
            for each in new:
                told.put_nowait(each.token)

        monkeypatch.setattr(Context, "decode", held)
        monkeypatch.setattr(DecodeThread, "post", posted)
        decoding = asyncio.create_task(other.call(some_prompt(2, 400), n_predict=1))
        await held_at("a chunk")
        is_posted.clear()
        call = asyncio.create_task(chat.call(max_decode=1, on_tokens=tell))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await is_posted.wait()
            waits["a chunk"][1].set()
            await held_at("the row")
            assert [await told.get()] == expected  # drawn from logits that were there
            waits["the row"][1].set()
            await held_at("a chunk beside it")
            result = await call
        assert (result.finish, result.sampled) == ("length", expected)
        assert not decoding.done()
        waits["a chunk beside it"][1].set()
        await decoding

    driver.run(work())
