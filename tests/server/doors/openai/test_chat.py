"""Chat completions as OpenAI's own client asks for them and reads them, from a real server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.server.served import Served

pytestmark = pytest.mark.anyio

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Who are you?"}]


async def test_a_whole_answer_and_the_same_as_it_comes(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="llama_cpp", messages=ASK, temperature=0, max_tokens=25)
    (choice,) = whole.choices
    assert choice.message.role == "assistant"
    assert (choice.message.content or "").startswith("I am a tiny chat model")
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 14
    assert whole.usage.total_tokens == 14 + whole.usage.completion_tokens
    assert whole.usage.model_extra is not None
    assert whole.usage.model_extra["calls"] > 2
    assert whole.usage.model_extra["instructions"] > 0

    stream = await client.chat.completions.create(
        model="llama_cpp",
        messages=ASK,
        temperature=0,
        max_tokens=25,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    first, *middle, last, usage = chunks
    assert first.choices[0].delta.model_dump(exclude_unset=True) == {"role": "assistant", "content": None}
    assert all(chunk.choices[0].delta.content for chunk in middle)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in middle) == choice.message.content
    assert (last.choices[0].delta.content, last.choices[0].finish_reason) == (None, choice.finish_reason)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == whole.usage.total_tokens
    assert len({chunk.id for chunk in chunks}) == 1


async def test_what_is_not_asked_for_is_not_sent(client: openai.AsyncOpenAI) -> None:
    """Code reads choices[0] of every chunk."""
    stream = await client.chat.completions.create(model="x", messages=ASK, max_tokens=3, stream=True)
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in [chunk async for chunk in stream])


async def test_the_head_of_a_stream_and_its_end(server: Served) -> None:
    body = {"messages": ASK, "stream": True, "max_tokens": 3}
    async with server.client("bob") as bob, bob.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in response.headers
        text = (await response.aread()).decode()
    assert text.endswith("data: [DONE]\n\n")
    assert all(event.startswith("data: ") for event in text.split("\n\n")[:-1])


@pytest.mark.parametrize("path", ["/v1", "", "/canisters/llama_cpp/v1"])
async def test_the_route_has_three_places(server: Served, path: str) -> None:
    async with server.client("bob") as bob:
        body = {"messages": ASK, "max_tokens": 2}
        assert (await bob.post(f"{path}/chat/completions", json=body)).json()["object"] == "chat.completion"


async def test_choices_have_seeds_one_after_the_other(client: openai.AsyncOpenAI) -> None:
    anything = {"top_k": 0, "min_p": 0, "top_p": 1}
    asked: dict[str, Any] = {"model": "x", "messages": ASK, "max_tokens": 12, "temperature": 2, "extra_body": anything}
    both = await client.chat.completions.create(seed=41, n=2, **asked)
    alone = [await client.chat.completions.create(seed=seed, **asked) for seed in (41, 42)]
    texts = [choice.message.content for choice in both.choices]
    assert texts == [answer.choices[0].message.content for answer in alone]
    assert texts[0] != texts[1]
    found: dict[int, str] = {0: "", 1: ""}
    async for chunk in await client.chat.completions.create(seed=41, n=2, stream=True, **asked):
        found[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(found.values()) == texts


async def test_probabilities_of_tokens(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "x", "messages": ASK, "max_tokens": 6, "temperature": 0, "logprobs": True}
    (choice,) = (await client.chat.completions.create(top_logprobs=3, **asked)).choices
    assert choice.logprobs is not None
    told = choice.logprobs.content
    assert told
    assert b"".join(bytes(token.bytes or []) for token in told).decode() == choice.message.content
    for token in told:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0  # greedy
    streamed = [
        token
        async for chunk in await client.chat.completions.create(top_logprobs=3, stream=True, **asked)
        for token in (chunk.choices[0].logprobs.content or [] if chunk.choices[0].logprobs else [])
    ]
    assert streamed == told
    (plain,) = (await client.chat.completions.create(**asked)).choices
    assert plain.logprobs is not None
    assert [token.top_logprobs for token in plain.logprobs.content or []] == [[]] * len(told)


async def test_stop_strings_are_cut_off(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "x", "messages": ASK, "temperature": 0, "max_tokens": 40}
    (choice,) = (await client.chat.completions.create(stop=["chat model", "never"], **asked)).choices
    assert (choice.message.content, choice.finish_reason) == ("I am a tiny ", "stop")
    stream = await client.chat.completions.create(stop="chat model", stream=True, **asked)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "I am a tiny "


async def test_an_answer_that_obeys_a_schema(client: openai.AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = await client.chat.completions.create(
        model="x",
        messages=ASK,
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}},
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert found["name"] in ("Ada", "Bob")
    assert 1 <= found["age"] <= 9


async def test_a_schema_that_cannot_be_bound_is_refused(client: openai.AsyncOpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "strange"}}}
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(
            model="x", messages=ASK, extra_body={"json_schema": schema}, max_tokens=5, stream=True
        )


async def test_progress_timings_and_the_prompt_for_those_who_ask(server: Served) -> None:
    wishes = {"return_progress": True, "timings_per_token": True, "verbose": True, "stream": True, "max_tokens": 5}
    async with server.client("erin") as erin:
        text = (await erin.post("/v1/chat/completions", json={"messages": ASK, **wishes})).text
    parts = [json.loads(event[6:]) for event in text.split("\n\n") if event.startswith("data: {")]
    assert "<|im_start|>user" in parts[0]["__verbose"]["prompt"]
    progress = [part["prompt_progress"] for part in parts if "prompt_progress" in part]
    assert progress[-1]["processed"] == progress[-1]["total"] == 14
    timed = [part["timings"]["predicted_n"] for part in parts if part["choices"][0]["delta"].get("content")]
    assert timed == sorted(timed)
    assert timed[-1] > 0


async def test_a_message_that_is_continued(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "x", "temperature": 0, "max_tokens": 30}
    whole = (await client.chat.completions.create(messages=ASK, **asked)).choices[0].message.content or ""
    begun: Any = [*ASK, {"role": "assistant", "content": whole[:12]}]
    rest = (await client.chat.completions.create(messages=begun, **asked)).choices[0].message.content or ""
    assert rest
    assert not rest.startswith(whole[:12])


async def test_biases_of_texts_and_of_tokens(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "x", "messages": ASK, "temperature": 0, "max_tokens": 5}
    plain = (await client.chat.completions.create(**asked)).choices[0].message.content or ""
    assert plain.startswith("I am")
    never = await client.chat.completions.create(extra_body={"logit_bias": {"I": False, "I am": False}}, **asked)
    assert not (never.choices[0].message.content or "").startswith("I")


async def test_the_client_without_asyncio(server: Served) -> None:
    key = server.host.keys.create("frank", replace=True)

    def ask() -> tuple[str | None, str]:
        asked: dict[str, Any] = {"model": "x", "messages": ASK, "temperature": 0, "max_tokens": 8}
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            whole = client.chat.completions.create(**asked)
            parts = client.chat.completions.create(stream=True, **asked)
            return whole.choices[0].message.content, "".join(part.choices[0].delta.content or "" for part in parts)

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == streamed != ""


async def test_who_may_not_chat_is_told_as_the_client_knows_it(server: Served, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as wrong:
        await client.with_options(api_key="sk-no-key").models.list()
    assert wrong.value.code == "invalid_api_key"
    async with httpx.AsyncClient(base_url=server.url) as nobody:
        response = await nobody.post("/v1/chat/completions", json={"messages": ASK})
        assert (response.status_code, response.json()["error"]["type"]) == (401, "authentication_error")
        assert "no API key was sent" in response.json()["error"]["message"]


async def test_keys_in_anthropics_header_count(server: Served) -> None:
    key = server.host.keys.create("carol", replace=True)
    async with httpx.AsyncClient(base_url=server.url, headers={"x-api-key": key}) as carol:
        assert (await carol.get("/v1/models")).json()["data"][0]["id"] == "llama_cpp"
        refused = await carol.get("/v1/models", headers={"x-api-key": "none"})
        assert refused.status_code == 401


async def test_models(client: openai.AsyncOpenAI) -> None:
    (model,) = [model async for model in client.models.list()]
    assert (model.id, model.object, model.owned_by) == ("llama_cpp", "model", "llama-canister")
    assert model.model_extra is not None
    assert model.model_extra["max_model_len"] == 1024
    assert model.model_extra["meta"]["n_vocab"] == 2048
    for name in ("llama_cpp", *model.model_extra["aliases"]):
        assert (await client.models.retrieve(name)).id == "llama_cpp"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.models.retrieve("gpt-4o")
    assert missing.value.code == "model_not_found"


async def test_unknown_routes_are_told_as_errors_of_openai(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.fine_tuning.jobs.list()
    assert missing.value.type == "not_found_error"
