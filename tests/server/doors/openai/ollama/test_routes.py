"""Ollama's own client, unmodified, against a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import pytest

from tests.server.served import CHAT, Served

pytestmark = pytest.mark.anyio

MODEL = "llama_cpp"
ASK: list[Any] = [{"role": "user", "content": "Who are you?"}]
FIXED: dict[str, Any] = {"temperature": 0, "num_predict": 25}


@pytest.fixture
async def client(server: Served) -> AsyncIterator[ollama.AsyncClient]:
    key = server.host.keys.create("alice", replace=True)
    async with ollama.AsyncClient(server.url, headers={"Authorization": f"Bearer {key}"}) as made:
        yield made


async def test_a_chat_and_the_same_as_it_comes(client: ollama.AsyncClient) -> None:
    whole = await client.chat(f"{MODEL}:latest", ASK, options=FIXED)
    assert (whole.message.content or "").startswith("I am a tiny chat model")
    assert (whole.model, whole.done, whole.prompt_eval_count) == (f"{MODEL}:latest", True, 14)
    assert whole.done_reason in ("stop", "length")
    assert (whole.eval_count or 0) > 5
    assert (whole.total_duration or 0) >= (whole.load_duration or 0) >= 0

    parts = [part async for part in await client.chat(MODEL, ASK, stream=True, options=FIXED)]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


async def test_a_text_and_the_same_as_it_comes(client: ollama.AsyncClient) -> None:
    whole = await client.generate(MODEL, "Who are you?", options=FIXED)
    assert (whole.response or "").startswith("I am a tiny chat model")
    raw = await client.generate(MODEL, CHAT.format("Who are you?"), raw=True, options=FIXED)
    assert raw.response == whole.response
    parts = [part async for part in await client.generate(MODEL, "Who are you?", stream=True, options=FIXED)]
    assert "".join(part.response or "" for part in parts) == whole.response
    cut = await client.generate(MODEL, "Who are you?", options={**FIXED, "num_predict": 3})
    assert (cut.done_reason, cut.eval_count) == ("length", 3)


async def test_streams_are_lines_and_the_default(server: Served) -> None:
    body = {"model": MODEL, "messages": ASK, "options": {"num_predict": 2}}
    async with server.client("bob") as bob:
        answer = await bob.post("/api/chat", json=body)
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert [line["done"] for line in lines[-2:]] == [False, True]
        answer = await bob.post("/canisters/llama_cpp/api/chat", json={**body, "stream": False})
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["done"] is True
        assert int(answer.headers["x-ic-instructions"]) > 0


async def test_a_format_binds(client: ollama.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    for kind in ("json", schema):
        answer = await client.generate(MODEL, "A number", format=kind, options={**FIXED, "num_predict": 200, "seed": 3})
        text = answer.response or ""
        if answer.done_reason == "stop":
            assert isinstance(json.loads(text), dict)
        assert text.lstrip().startswith("{")


async def test_tools_are_called(server: Served) -> None:
    """Ollama's client cannot say that a tool must be called; the field is read all the same."""
    parameters = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    parameters["additionalProperties"] = False
    tool = {"type": "function", "function": {"name": "half", "description": "Half of it.", "parameters": parameters}}
    body = {"model": MODEL, "messages": ASK, "tools": [tool], "tool_choice": "required", "options": FIXED}
    body["options"] = {**FIXED, "num_predict": 200}
    async with server.client("bob") as bob:
        whole = ollama.ChatResponse(**(await bob.post("/api/chat", json={**body, "stream": False})).json())
        lines = (await bob.post("/api/chat", json=body)).text.splitlines()
    (call, *_) = whole.message.tool_calls or []
    assert call.function.name == "half"
    assert int(call.function.arguments["n"]) <= 9
    parts = [ollama.ChatResponse(**json.loads(line)) for line in lines]
    called = [one.function for part in parts for one in part.message.tool_calls or []]
    assert called == [one.function for one in whole.message.tool_calls or []]
    assert parts[-1].done_reason == whole.done_reason


async def test_probabilities_are_told(client: ollama.AsyncClient) -> None:
    answer = await client.chat(MODEL, ASK, options={**FIXED, "num_predict": 4}, logprobs=True, top_logprobs=2)
    assert answer.logprobs is not None
    assert len(answer.logprobs) == 4
    assert all(one.logprob <= 0 and len(one.top_logprobs or []) == 2 for one in answer.logprobs)


async def test_who_asks_for_nothing_is_told_that_the_model_is_there(client: ollama.AsyncClient) -> None:
    assert (await client.generate(MODEL)).done_reason == "load"
    assert (await client.chat(MODEL, [])).done_reason == "load"


async def test_what_is_told_of_models(client: ollama.AsyncClient, server: Served) -> None:
    (listed,) = (await client.list()).models
    assert listed.model == f"{MODEL}:latest"
    assert len(listed.digest or "") == 64
    assert listed.details is not None
    assert (listed.details.format, listed.details.quantization_level) == ("gguf", "Q8_0")
    (running,) = (await client.ps()).models
    assert (running.name, running.context_length, running.size) == (f"{MODEL}:latest", 1024, listed.size)
    shown = await client.show(MODEL)
    assert shown.capabilities == ["completion", "tools"]
    assert "<|im_start|>" in (shown.template or "")
    info = shown.modelinfo or {}
    assert info["general.architecture"] == listed.details.family
    assert info["general.parameter_count"] > 1_000_000
    async with httpx.AsyncClient(base_url=server.url) as nobody:
        assert (await nobody.get("/api/version")).json()["version"].count(".") == 2
        answer = await nobody.get("/api/tags")
        assert (answer.status_code, list(answer.json())) == (401, ["error"])


async def test_errors_before_a_route_have_its_form(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": "Bearer sk-no-key"}) as wrong:
        answer = await wrong.post("/api/chat", json={})
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert "API key" in answer.json()["error"]
        assert (await wrong.post("/completion", json={})).json()["error"]["code"] == "invalid_api_key"
        assert (await wrong.post("/v1/messages", json={})).json()["error"]["type"] == "authentication_error"
    async with server.client("bob") as bob:
        answer = await bob.post("/api/nothing", json={})
        assert (answer.status_code, "error" in answer.json()) == (404, True)
        answer = await bob.get("/api/chat")
        assert (answer.status_code, answer.headers["allow"], list(answer.json())) == (405, "POST", ["error"])


async def test_a_model_that_is_there_need_not_be_pulled(client: ollama.AsyncClient) -> None:
    assert (await client.pull(f"{MODEL}:latest")).status == "success"
    with pytest.raises(ollama.ResponseError, match="does not exist") as caught:
        await client.pull("llama3.2")
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="operator") as caught:
        await client.delete(MODEL)
    assert caught.value.status_code == 501


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"messages": "Hi"}, "messages is a list"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"options": {"top_k": "x"}}, "top_k: "),
        ({"format": {"type": 7}}, "schema"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "exceeds the available context size"),
    ],
)
async def test_bad_requests_are_told(server: Served, fields: dict[str, Any], told: str) -> None:
    async with server.client("bob") as bob:
        answer = await bob.post("/api/chat", json={"model": MODEL, "messages": ASK, **fields})
    assert answer.status_code == 400
    assert told in answer.json()["error"]


async def test_a_model_without_the_tokens_for_it_fills_nothing_in(client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="infill is not supported by this model") as caught:
        await client.generate(MODEL, "def f(", suffix="return 1")
    assert caught.value.status_code == 501
