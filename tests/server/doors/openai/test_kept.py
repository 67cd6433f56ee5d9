"""An Idempotency-Key on OpenAI's other routes: one answer, made once, told again as it was."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.engine.driver import Turnstile
from tests.server.served import Served

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"model": "llama_cpp", "messages": [{"role": "user", "content": "Who are you?"}]}
TEXTS: dict[str, Any] = {"model": "llama_cpp", "max_tokens": 12, "prompt": ["One day", "The sea"], "echo": True}


def keyed(key: str, wanted: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**wanted, **more, "extra_headers": {"Idempotency-Key": key}}


async def chunks(stream: Any) -> list[dict[str, Any]]:
    return [chunk.model_dump() async for chunk in stream]


async def test_chat_is_answered_once(client: openai.AsyncOpenAI, server: Served) -> None:
    n_before = len(server.host.default.call_log.newest(None, None, 10_000))
    first = await client.chat.completions.create(**keyed("chat", CHAT, temperature=1.5))
    n_calls = len(server.host.default.call_log.newest(None, None, 10_000)) - n_before
    again = await client.chat.completions.create(**keyed("chat", CHAT, temperature=1.5))
    assert again.model_dump() == first.model_dump()
    assert len(server.host.default.call_log.newest(None, None, 10_000)) == n_before + n_calls
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await client.chat.completions.create(**keyed("chat", CHAT, temperature=0.5))
    assert refused.value.code == "idempotency_key_reused"


async def test_streams_of_one_key_are_the_same(client: openai.AsyncOpenAI) -> None:
    wanted = keyed("streams", CHAT, stream=True, temperature=1.5, max_tokens=40, logprobs=True)

    async def stream() -> list[dict[str, Any]]:
        return await chunks(await client.chat.completions.create(**wanted))

    first, second = await asyncio.gather(stream(), stream())
    assert first == second == await stream()
    assert len(first) > 5


async def test_several_choices(client: openai.AsyncOpenAI) -> None:
    drawn: dict[str, Any] = {"n": 3, "temperature": 5, "max_tokens": 12, "seed": 5, "top_p": 1}
    drawn["extra_body"] = {"min_p": 0}
    wanted = keyed("choices", CHAT, **drawn)
    first = await client.chat.completions.create(**wanted)
    again = await client.chat.completions.create(**wanted)
    assert again.model_dump() == first.model_dump()
    assert len({choice.message.content for choice in first.choices}) > 1
    alone = await client.chat.completions.create(**CHAT, **drawn)
    assert [one.message.content for one in alone.choices] == [one.message.content for one in first.choices]


async def test_texts_of_several_prompts(client: openai.AsyncOpenAI) -> None:
    wanted = keyed("texts", TEXTS, n=2, temperature=1.5)
    first = await client.completions.create(**wanted)
    again = await client.completions.create(**wanted)
    assert again.model_dump() == first.model_dump()
    assert [choice.text.startswith(("One day", "The sea")) for choice in first.choices] == [True] * 4
    with pytest.raises(openai.UnprocessableEntityError):
        await client.completions.create(**keyed("texts", TEXTS, n=1))


async def test_a_client_that_gives_up_finds_the_answer(client: openai.AsyncOpenAI, server: Served) -> None:
    wanted = keyed("gives up", CHAT, max_tokens=300, extra_body={"ignore_eos": True})
    engine = server.host.default.model.engine
    assert engine is not None
    with Turnstile(engine, 3) as turnstile:
        asked = asyncio.create_task(client.chat.completions.create(**wanted))
        await turnstile.reached()
        asked.cancel()
        await asyncio.wait([asked])
    assert asked.cancelled()
    done = await client.chat.completions.create(**wanted)
    assert done.usage is not None
    assert done.usage.completion_tokens == 300


async def test_what_cannot_be_answered_uses_up_no_key(client: openai.AsyncOpenAI) -> None:
    for _ in range(2):
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**keyed("wrong", {"model": "llama_cpp", "messages": []}))
    assert (await client.chat.completions.create(**keyed("wrong", CHAT, max_tokens=3))).choices
