"""Anthropic's own client, unmodified, against a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest

from tests.server.served import Served

pytestmark = pytest.mark.anyio

ASK: list[Any] = [{"role": "user", "content": "Who are you?"}]
IMAGE: Any = {"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}
PLAIN: dict[str, Any] = {"model": "claude", "messages": ASK, "max_tokens": 25}
FIXED: dict[str, Any] = {**PLAIN, "extra_body": {"temperature": 0}}


def connected(server: Served, name: str, **options: Any) -> anthropic.AsyncAnthropic:
    key = server.host.keys.create(name, replace=True)
    return anthropic.AsyncAnthropic(base_url=server.url, api_key=key, **{"max_retries": 0, **options})


@pytest.fixture
async def client(server: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with connected(server, "alice") as made:
        yield made


async def test_a_whole_answer_and_the_same_as_it_comes(client: anthropic.AsyncAnthropic) -> None:
    whole = await client.messages.create(**FIXED)
    (block,) = whole.content
    assert block.type == "text"
    assert block.text.startswith("I am a tiny chat model")
    assert (whole.role, whole.model, whole.stop_sequence) == ("assistant", "llama_cpp", None)
    assert whole.stop_reason in ("end_turn", "max_tokens")
    usage = whole.usage
    n_prompt = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert n_prompt == 14
    assert (usage.model_extra or {})["calls"] > 2

    async with client.messages.stream(**FIXED) as stream:
        text = "".join([text async for text in stream.text_stream])
        final = await stream.get_final_message()
    assert text == block.text
    assert final.content[0].to_dict() == block.to_dict()
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, usage.output_tokens)
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == n_prompt
    assert final.id.startswith("msg_")


async def test_the_head_of_a_stream(server: Served) -> None:
    body = {**PLAIN, "stream": True}
    async with server.client("bob") as bob, bob.stream("POST", "/v1/messages", json=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        text = (await answer.aread()).decode()
    events = text.split("\n\n")[:-1]
    assert all(event.startswith("event: ") for event in events)
    assert events[0].startswith("event: message_start\n")
    assert '"instructions"' not in events[0]  # not known yet, which is not 0
    assert '"instructions"' in events[-2]
    assert events[-1] == 'event: message_stop\ndata: {"type":"message_stop"}'
    assert "id:" not in [line.partition(" ")[0] for event in events for line in event.split("\n")]


async def test_tokens_are_counted_as_they_are_used(client: anthropic.AsyncAnthropic, server: Served) -> None:
    counted = await client.messages.count_tokens(model="x", messages=ASK, system="Be brief.")
    used = (await client.messages.create(**{**FIXED, "system": "Be brief.", "max_tokens": 1})).usage
    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)
    much = [{"role": "user", "content": "word " * 3000}]
    assert (await client.messages.count_tokens(model="x", messages=much)).input_tokens > 1024
    async with server.client("bob") as bob:
        answer = await bob.post("/v1/chat/completions/input_tokens", json={"messages": much})
        assert answer.json()["object"] == "response.input_tokens"
        assert answer.json()["input_tokens"] > 1024


async def test_a_stop_sequence_is_named(client: anthropic.AsyncAnthropic) -> None:
    answer = await client.messages.create(**FIXED, stop_sequences=["xyzzy", " chat"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " chat")
    assert answer.content[0].to_dict() == {"type": "text", "text": "I am a tiny"}


async def test_an_answer_of_the_assistant_is_gone_on_with(client: anthropic.AsyncAnthropic) -> None:
    said: list[Any] = [*ASK, {"role": "assistant", "content": "I am a tiny"}]
    answer = await client.messages.create(**{**FIXED, "messages": said})
    assert answer.content[0].to_dict()["text"].startswith(" chat model")


TOOLS: list[Any] = [
    {
        "name": name,
        "description": "The weather of a city.",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Genf"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    }
    for name in ("weather", "forecast")
]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "forecast"}])
async def test_tools_are_called_as_they_must_be(client: anthropic.AsyncAnthropic, choice: Any) -> None:
    asked = {**FIXED, "max_tokens": 200, "tools": TOOLS, "tool_choice": {**choice, "disable_parallel_tool_use": True}}
    whole = await client.messages.create(**asked)
    assert whole.stop_reason == "tool_use"
    (call,) = [block for block in whole.content if block.type == "tool_use"]
    assert call.name in (choice.get("name", "weather"), "forecast")
    assert set(call.input) == {"city", "days"}
    assert call.input["city"] in ("Bern", "Genf")
    assert 1 <= int(str(call.input["days"])) <= 9

    async with client.messages.stream(**asked) as stream:
        final = await stream.get_final_message()
    assert [(block.to_dict() | {"id": ""}) for block in final.content] == [
        (block.to_dict() | {"id": ""}) for block in whole.content
    ]
    assert final.stop_reason == "tool_use"

    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    said: Any = [*ASK, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    after = await client.messages.create(**{**FIXED, "messages": said, "tools": TOOLS})
    assert after.usage.input_tokens + (after.usage.cache_read_input_tokens or 0) > 14


async def test_a_call_that_is_cut_off_is_told_as_far_as_it_goes(client: anthropic.AsyncAnthropic) -> None:
    asked = {**FIXED, "max_tokens": 9, "tools": TOOLS, "tool_choice": {"type": "any"}}
    whole = await client.messages.create(**asked)
    assert whole.stop_reason == "max_tokens"
    async with client.messages.stream(**asked) as stream:
        final = await stream.get_final_message()
    assert final.stop_reason == "max_tokens"
    assert [block.to_dict() | {"id": ""} for block in final.content] == [
        block.to_dict() | {"id": ""} for block in whole.content
    ]


async def test_an_answer_obeys_a_schema(client: anthropic.AsyncAnthropic) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    schema["additionalProperties"] = False
    answer = await client.messages.create(
        **{**FIXED, "max_tokens": 100}, output_config={"format": {"type": "json_schema", "schema": schema}}
    )
    text = json.loads(answer.content[0].to_dict()["text"])
    assert list(text) == ["n"]
    assert text["n"] <= 9
    wrong: Any = {"format": {"type": "json_schema", "schema": {"type": "nonsense"}}}
    for is_streamed in (False, True):
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.create(**FIXED, output_config=wrong, stream=is_streamed)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "image input is not supported"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "there is no tool"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "prompt is too long: "),
    ],
)
async def test_bad_requests_are_typed(client: anthropic.AsyncAnthropic, change: dict[str, Any], told: str) -> None:
    for is_streamed in (False, True):
        with pytest.raises(anthropic.BadRequestError) as caught:
            await client.messages.create(**{**FIXED, **change, "stream": is_streamed})
        body = caught.value.body
        assert isinstance(body, dict)
        assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
        assert told in body["error"]["message"]
        assert body["request_id"] == caught.value.request_id


async def test_keys_and_routes_are_typed(client: anthropic.AsyncAnthropic, server: Served) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        await client.with_options(api_key="sk-no-key").messages.create(**FIXED)
    with pytest.raises(anthropic.NotFoundError) as caught:
        await client.post("/v1/messages/batches", body={}, cast_to=object)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "not_found_error"
    async with httpx.AsyncClient(base_url=server.url) as nobody:
        answer = await nobody.post("/v1/messages", json=PLAIN)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        answer = await nobody.get("/v1/messages")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/v1", "", "/canisters/llama_cpp/v1"])
async def test_the_route_has_three_places(server: Served, path: str) -> None:
    async with server.client("bob") as bob:
        answer = await bob.post(f"{path}/messages", json=PLAIN)
        assert answer.json()["type"] == "message"


async def test_a_model_that_is_full_or_gone_is_asked_again(server: Served) -> None:
    """Anthropic's client repeats by itself what may help, and nothing else."""
    statuses: list[int] = []

    async def note(response: Any) -> None:
        statuses.append(response.status_code)

    async with connected(server, "carol", max_retries=2) as carol:
        carol._client.event_hooks["response"] = [note]
        server.host.is_draining = True
        try:
            with pytest.raises(anthropic.APIStatusError) as caught:
                await carol.messages.create(**FIXED)
        finally:
            server.host.is_draining = False
        assert (caught.value.status_code, json.loads(caught.value.response.text)["error"]["type"]) == (
            503,
            "overloaded_error",
        )
        assert statuses == [503, 503, 503]
        with pytest.raises(anthropic.BadRequestError):
            await carol.messages.create(**{**FIXED, "max_tokens": -5})
        assert statuses[3:] == [400]


async def test_a_key_means_one_answer_however_often_it_is_asked_for(server: Served) -> None:
    body = {**PLAIN, "temperature": 1, "max_tokens": 12}
    async with server.client("dora") as dora:
        headers = {"Idempotency-Key": "once"}
        first = (await dora.post("/v1/messages", json=body, headers=headers)).json()
        again = (await dora.post("/v1/messages", json=body, headers=headers)).json()
        assert (again["id"], again["content"]) == (first["id"], first["content"])
        other = await dora.post("/v1/messages", json={**body, "max_tokens": 13}, headers=headers)
        assert (other.status_code, other.json()["error"]["type"]) == (422, "invalid_request_error")


async def test_what_fails_on_the_way_is_the_last_event(client: anthropic.AsyncAnthropic, server: Served) -> None:
    """The model is unloaded between two calls of an answer."""
    async with server.client() as controller:
        model = server.host.default.state.model_args
        assert model is not None
        stream = await client.messages.create(**{**PLAIN, "max_tokens": 900, "stream": True})
        await anext(stream)
        (await controller.delete("/canisters/llama_cpp/engine")).raise_for_status()
        with pytest.raises(anthropic.APIStatusError) as caught:
            [event async for event in stream]
        loaded = await controller.post("/load_model", json={"args": list(model)})
    assert loaded.status_code == 200, loaded.text
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["request_id"]


async def test_what_may_help_is_asked_again_until_it_does(server: Served) -> None:
    statuses: list[int] = []

    async def note(response: Any) -> None:
        statuses.append(response.status_code)
        server.host.is_draining = False

    async with connected(server, "carol", max_retries=2) as carol:
        carol._client.event_hooks["response"] = [note]
        server.host.is_draining = True
        try:
            answer = await carol.messages.create(**FIXED)
        finally:
            server.host.is_draining = False
    assert statuses == [503, 200]
    assert answer.type == "message"


def deep(n: int) -> str:
    return "[" * n + "]" * n


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (json.dumps({**PLAIN, "stop_sequences": ["x"] * 50_000}), "stop"),
        (json.dumps({**PLAIN, "messages": ASK * 60_000}), "100000 values"),
        (json.dumps({"messages": 0}).replace("0", deep(100_000)), "not understood"),
        (json.dumps({**PLAIN, "messages": [{"role": "user", "content": "x" * 900_000}]}), "prompt is too long"),
        (json.dumps({**PLAIN, "tools": [{"name": "f", "input_schema": {"$ref": "#"}}] * 2}), "name"),
    ],
    ids=["stops", "messages", "nesting", "text", "tools"],
)
async def test_what_is_too_much_is_refused_in_a_sentence(server: Served, body: str, told: str) -> None:
    async with server.client("bob") as bob:
        answer = await bob.post("/v1/messages", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert told in answer.json()["error"]["message"]
    assert len(answer.content) < 1000


async def test_models_are_told_in_the_clients_form(client: anthropic.AsyncAnthropic) -> None:
    (model,) = [model async for model in client.models.list()]
    assert (model.id, model.type, model.display_name) == ("llama_cpp", "model", "llama_cpp")
    assert model.created_at.year > 2000
    assert (await client.models.retrieve("llama_cpp")).id == "llama_cpp"
    with pytest.raises(anthropic.NotFoundError):
        await client.models.retrieve("gpt-4o")


async def test_claude_codes_prompt_is_there_when_it_asks_again(client: anthropic.AsyncAnthropic) -> None:
    """Though the header in its system text has another checksum each time."""

    async def ask(digits: str) -> anthropic.types.Usage:
        header = f"x-anthropic-billing-header: cc_version=2.1.0; cc_entrypoint=cli; cch={digits};"
        system: Any = [{"type": "text", "text": header}, {"type": "text", "text": "You are an agent of few words."}]
        return (await client.messages.create(**{**FIXED, "max_tokens": 2, "system": system})).usage

    first, second = await ask("0a1b2"), await ask("c3d4e")
    n_prompt = first.input_tokens + (first.cache_read_input_tokens or 0)
    assert second.cache_read_input_tokens == n_prompt - 1
    assert second.input_tokens == 1
