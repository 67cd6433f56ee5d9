"""`/v1/responses` with OpenAI's own client, unmodified: made, streamed, read again, cancelled, removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from tests.engine.driver import Turnstile
from tests.server.doors.openai.conftest import connected
from tests.server.doors.openai.responses.sdk import check_events, check_object
from tests.server.served import Served
from tests.traces import until

pytestmark = pytest.mark.anyio

QUESTION = "Who are you?"
ENDLESS: dict[str, Any] = {"ignore_eos": True}
GREEDY: dict[str, Any] = {"model": "llama_cpp", "temperature": 0}


async def dumped(stream: AsyncIterator[Any]) -> list[dict[str, Any]]:
    return [event.model_dump() async for event in stream]


async def finished(client: openai.AsyncOpenAI, id: str) -> Any:
    """As it is polled for."""
    while True:
        response = await client.responses.retrieve(id)
        if response.status not in ("queued", "in_progress"):
            return response
        await asyncio.sleep(0.02)


@pytest.fixture
async def http(server: Served, client: openai.AsyncOpenAI) -> AsyncIterator[httpx.AsyncClient]:
    """The same caller as `client`, by hand."""
    headers = {"Authorization": f"Bearer {client.api_key}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as made:
        yield made


def events_of(text: str) -> list[dict[str, Any]]:
    """Of a body of server-sent events, each named as its data is."""
    found = []
    for frame in text.split("\n\n"):
        lines = frame.splitlines()
        if lines and not frame.startswith(":"):
            assert len(lines) == 2, frame
            event = json.loads(lines[1].removeprefix("data: "))
            assert lines[0] == f"event: {event['type']}"
            found.append(event)
    return found


async def test_an_answer_is_made_kept_and_removed(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(**GREEDY, input=QUESTION, metadata={"a": "b"}, instructions="Be kind.")
    assert made.status == "completed"
    assert made.output_text
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    assert (made.model, made.metadata, made.instructions) == ("llama_cpp", {"a": "b"}, "Be kind.")
    again = await client.responses.retrieve(made.id)
    assert again.completed_at is not None
    assert again.model_copy(update={"completed_at": None}).model_dump() == made.model_dump()
    await client.responses.delete(made.id)
    for gone in (client.responses.retrieve(made.id), client.responses.delete(made.id)):
        with pytest.raises(openai.NotFoundError, match=made.id):
            await gone


async def test_it_says_what_chat_completions_say(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(**GREEDY, input=QUESTION)
    chat = await client.chat.completions.create(**GREEDY, messages=[{"role": "user", "content": QUESTION}])
    assert made.output_text == chat.choices[0].message.content


async def test_a_stream_is_numbered_and_read_again_from_anywhere(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(**GREEDY, input=QUESTION, max_output_tokens=24, stream=True)
    events = await dumped(stream)
    check_events(events)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    id = events[0]["response"]["id"]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 8
    assert "".join(deltas) == (await client.responses.retrieve(id)).output_text
    for after in (0, 3, len(deltas), len(events) - 2, len(events) - 1, len(events) + 5):
        rest = await dumped(await client.responses.retrieve(id, stream=True, starting_after=after))
        assert rest == events[after + 1 :]
    assert await dumped(await client.responses.retrieve(id, stream=True)) == events


async def test_the_sdks_helper_puts_it_together(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(**GREEDY, input=QUESTION) as stream:
        snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert final.output_text == snapshots[-1]
    async with client.responses.stream(response_id=final.id, starting_after=5) as stream:
        assert [event.sequence_number async for event in stream][:2] == [6, 7]
        assert (await stream.get_final_response()).output_text == final.output_text


async def test_one_of_the_background_goes_on_alone(client: openai.AsyncOpenAI) -> None:
    begun = await client.responses.create(
        **GREEDY, input=QUESTION, background=True, max_output_tokens=40, extra_body=ENDLESS
    )
    assert (begun.status, begun.output, begun.background) == ("queued", [], True)
    done = await finished(client, begun.id)
    assert done.status == "incomplete"
    assert done.usage.output_tokens == 40
    events = await dumped(await client.responses.retrieve(begun.id, stream=True))
    check_events(events)
    assert [event["type"] for event in events][:3] == ["response.created", "response.queued", "response.in_progress"]
    assert events[-1]["response"]["output"] == done.model_dump()["output"]


async def test_a_stream_of_the_background_goes_on_when_its_client_goes(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(
        **GREEDY, input=QUESTION, background=True, stream=True, max_output_tokens=60, extra_body=ENDLESS
    )
    seen: list[dict[str, Any]] = []
    async for event in stream:
        seen.append(event.model_dump())
        if len(seen) == 9:
            break
    await stream.close()
    id, after = seen[0]["response"]["id"], seen[-1]["sequence_number"]
    rest = await dumped(await client.responses.retrieve(id, stream=True, starting_after=after))
    check_events(seen + rest)
    assert rest[-1]["response"]["usage"]["output_tokens"] == 60


async def test_what_its_client_left_is_gone_on_with_when_it_comes_again(
    client: openai.AsyncOpenAI, server: Served
) -> None:
    stream = await client.responses.create(
        **GREEDY, input=QUESTION, stream=True, max_output_tokens=200, extra_body=ENDLESS
    )
    seen: list[dict[str, Any]] = []
    async for event in stream:
        seen.append(event.model_dump())
        if len(seen) == 20:
            break
    await stream.close()
    id = seen[0]["response"]["id"]
    await until(lambda: server.host.default.live_answers.find(id) is None)
    left = await client.responses.retrieve(id)
    assert left.status == "incomplete"
    assert left.incomplete_details is None
    rest = await dumped(await client.responses.retrieve(id, stream=True, starting_after=19))
    check_events(seen + rest)
    assert rest[-1]["response"]["usage"]["output_tokens"] == 200


async def test_cancelled(client: openai.AsyncOpenAI) -> None:
    begun = await client.responses.create(**GREEDY, input=QUESTION, background=True, extra_body=ENDLESS)
    listening = asyncio.create_task(_listen(client, begun.id))
    async for event in await client.responses.retrieve(begun.id, stream=True):
        if event.type == "response.output_text.delta":
            break
    cancelled = await client.responses.cancel(begun.id)
    assert cancelled.status == "cancelled"
    heard = await listening
    check_events(heard)
    assert heard[-1]["response"]["status"] == "cancelled"
    assert heard[-1]["response"]["output"][0]["status"] == "incomplete"
    assert (await client.responses.cancel(begun.id)).status == "cancelled"
    assert (await client.responses.retrieve(begun.id)).output_text == cancelled.output_text


async def _listen(client: openai.AsyncOpenAI, id: str) -> list[dict[str, Any]]:
    return await dumped(await client.responses.retrieve(id, stream=True))


async def test_a_conversation_goes_on_from_an_answer(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(**GREEDY, input="My name is Ada.", instructions="Be brief.")
    second = await client.responses.create(**GREEDY, input="What is it?", previous_response_id=first.id)
    by_hand = await client.responses.create(
        **GREEDY,
        input=[
            {"role": "user", "content": "My name is Ada."},
            *[item.model_dump() for item in first.output],  # type: ignore[list-item]
            {"role": "user", "content": "What is it?"},
        ],
    )
    assert second.output_text == by_hand.output_text
    assert second.previous_response_id == first.id
    listed = await client.responses.input_items.list(second.id, order="asc")
    assert [item.role for item in listed.data] == ["user", "assistant", "user"]  # type: ignore[union-attr]
    assert listed.data[1].id == first.output[0].id
    newest = await client.responses.input_items.list(second.id, limit=1)
    assert (newest.data[0].id, newest.has_more) == (listed.data[2].id, True)
    pages = [item.id async for item in client.responses.input_items.list(second.id, limit=1)]
    assert pages == [item.id for item in reversed(listed.data)]


async def test_items_can_be_referred_to(client: openai.AsyncOpenAI, http: httpx.AsyncClient) -> None:
    first = await client.responses.create(**GREEDY, input="My name is Ada.")
    said = [
        {"role": "user", "content": "My name is Ada."},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "What is it?"},
    ]
    second = (await http.post("/v1/responses", json={**GREEDY, "input": said})).json()
    whole = await client.responses.create(**GREEDY, input="What is it?", previous_response_id=first.id)
    assert second["output"][0]["content"] == whole.model_dump()["output"][0]["content"]
    await client.responses.delete(first.id)
    refused = await http.post("/v1/responses", json={**GREEDY, "input": said})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[1].id")


async def test_what_is_not_stored_is_not_found(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(**GREEDY, input=QUESTION, store=False)
    assert (made.status, made.store) == ("completed", False)  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError, match="previous_response_id") as refused:
        await client.responses.create(**GREEDY, input=QUESTION, previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found"


async def test_a_stream_that_is_not_stored(client: openai.AsyncOpenAI) -> None:
    events = await dumped(await client.responses.create(**GREEDY, input=QUESTION, store=False, stream=True))
    check_events(events)
    assert events[-1]["type"] == "response.completed"


async def test_nobody_finds_anothers(server: Served, client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(**GREEDY, input=QUESTION)
    async with connected(server, "bob") as bob:
        for call in (bob.responses.retrieve, bob.responses.cancel, bob.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await call(made.id)
        with pytest.raises(openai.BadRequestError):
            await bob.responses.create(**GREEDY, input=QUESTION, previous_response_id=made.id)
    assert (await client.responses.retrieve(made.id)).id == made.id


async def test_who_is_too_late_to_remove_an_answer_is_told_that_it_is_not_there(http: httpx.AsyncClient) -> None:
    body = {**ENDLESS, "input": QUESTION, "background": True}
    path = f"/v1/responses/{(await http.post('/v1/responses', json=body)).json()['id']}"
    removed = sorted(await asyncio.gather(*(http.delete(path) for _ in range(3))), key=lambda one: one.status_code)
    assert [one.status_code for one in removed] == [200, 404, 404]
    missing = (await http.get(path)).json()
    assert [one.json() for one in removed[1:]] == [missing, missing]


async def test_tokens_are_counted(client: openai.AsyncOpenAI) -> None:
    counted = await client.responses.input_tokens.count(model="llama_cpp", input=QUESTION)
    made = await client.responses.create(**GREEDY, input=QUESTION, max_output_tokens=1)
    assert made.usage is not None
    assert counted.input_tokens == made.usage.input_tokens
    assert counted.object == "response.input_tokens"
    biased = {"logit_bias": {"The": 1}}
    again = await client.responses.input_tokens.count(model="llama_cpp", input=QUESTION, extra_body=biased)
    assert again.input_tokens == counted.input_tokens


async def test_probabilities(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(
        **GREEDY,
        input=QUESTION,
        max_output_tokens=6,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
        stream=True,
    )
    events = await dumped(stream)
    check_events(events)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert all(len(one["top_logprobs"]) == 2 for event in deltas for one in event["logprobs"])
    content = events[-1]["response"]["output"][0]["content"][0]
    assert "".join(one["token"] for one in content["logprobs"]) == content["text"]
    again = await dumped(await client.responses.retrieve(events[0]["response"]["id"], stream=True))
    assert again == events


async def test_a_schema_is_obeyed(client: openai.AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [3, 4]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    made = await client.responses.create(
        **GREEDY, input="A number?", text={"format": {"type": "json_schema", "name": "number", "schema": schema}}
    )
    assert json.loads(made.output_text)["n"] in (3, 4)


async def test_tools_are_called_and_their_results_taken(client: openai.AsyncOpenAI) -> None:
    city = {"type": "object", "properties": {"city": {"enum": ["Bern", "Rome"]}}, "required": ["city"]}
    tools: Any = [
        {"type": "function", "name": "weather", "parameters": {**city, "additionalProperties": False}, "strict": True},
        {"type": "web_search"},
    ]
    wanted: dict[str, Any] = {**GREEDY, "input": "Weather in Bern?", "tools": tools, "tool_choice": "required"}
    wanted["parallel_tool_calls"] = False
    events = [event.to_dict(mode="json") async for event in await client.responses.create(**wanted, stream=True)]
    check_events(events)
    response = events[-1]["response"]
    (call,) = response["output"]
    assert (response["status"], call["type"], call["name"], call["status"]) == (
        "completed",
        "function_call",
        "weather",
        "completed",
    )
    assert json.loads(call["arguments"])["city"] in ("Bern", "Rome")
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call["arguments"]
    assert [tool["type"] for tool in response["tools"]] == ["function"]
    again = [e.to_dict(mode="json") async for e in await client.responses.retrieve(response["id"], stream=True)]
    assert again == events
    result: Any = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    after = await client.responses.create(
        **GREEDY, input=[result], previous_response_id=response["id"], tools=tools, tool_choice="none"
    )
    assert after.output_text
    named: Any = {"type": "function", "name": "weather"}
    by_name = await client.responses.create(**{**wanted, "tool_choice": named})
    assert by_name.output[0].type == "function_call"


async def test_what_codex_sends_is_answered(http: httpx.AsyncClient) -> None:
    """Items without type, id and status; tools that are not functions; fields that nobody here knows."""
    body = {
        "model": "gpt-5-codex",
        "instructions": "You are Codex.",
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "List the files."}]},
            {"type": "reasoning", "summary": [], "encrypted_content": "x", "content": None},
            {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "call_1"},
            {"type": "function_call_output", "call_id": "call_1", "output": "a.txt"},
            {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
        ],
        "tools": [{"type": "local_shell"}, {"type": "web_search"}, {"type": "custom", "name": "apply_patch"}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199-abc",
        "max_output_tokens": 12,
        "client_metadata": {"x": 1},
    }
    answer = await http.post("/v1/responses", json=body, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream"
    events = events_of(answer.text)
    check_events(events)
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    check_object(events[-1]["response"])
    assert "[DONE]" not in answer.text


async def test_an_idempotency_key_joins_the_answer_that_it_began(client: openai.AsyncOpenAI) -> None:
    wanted: dict[str, Any] = {**GREEDY, "input": QUESTION, "extra_headers": {"Idempotency-Key": "one"}}
    first = await client.responses.create(**wanted)
    again = await client.responses.create(**wanted)
    assert again.model_dump() == first.model_dump()
    with pytest.raises(openai.UnprocessableEntityError, match="Idempotency-Key") as refused:
        await client.responses.create(**{**wanted, "input": "Something else?"})
    assert refused.value.code == "idempotency_key_reused"


async def test_two_at_once_with_a_key_are_one(client: openai.AsyncOpenAI) -> None:
    wanted: dict[str, Any] = {**GREEDY, "input": QUESTION, "stream": True, "extra_headers": {"Idempotency-Key": "two"}}

    async def stream() -> list[dict[str, Any]]:
        return await dumped(await client.responses.create(**wanted))

    first, second = await asyncio.gather(stream(), stream())
    assert first == second
    check_events(first)


async def test_with_a_key_it_goes_on_without_its_client(client: openai.AsyncOpenAI, server: Served) -> None:
    wanted: dict[str, Any] = {
        **GREEDY,
        "input": QUESTION,
        "max_output_tokens": 200,
        "extra_body": ENDLESS,
        "extra_headers": {"Idempotency-Key": "three"},
    }
    engine = server.host.default.model.engine
    assert engine is not None
    with Turnstile(engine, 3) as turnstile:
        asked = asyncio.create_task(client.responses.create(**wanted))
        await turnstile.reached()
        asked.cancel()
        await asyncio.wait([asked])
        (row,) = server.host.default.answers.running()
        assert server.host.default.live_answers.find(row.asked.id) is not None
    done = await client.responses.create(**wanted)
    assert done.id == row.asked.id
    assert done.usage is not None
    assert done.usage.output_tokens == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": QUESTION, "conversation": "conv_1"}, "conversation"),
        ({"input": QUESTION, "prompt": {"id": "p"}}, "prompt"),
        ({"input": QUESTION, "background": True, "store": False}, "background"),
        ({"input": QUESTION, "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": QUESTION, "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": QUESTION, "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ],
)
async def test_what_is_wrong_is_named(http: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        answer = await http.post("/v1/responses", json={**body, "stream": stream})
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.json()["error"]["param"] == param


async def test_other_refusals(http: httpx.AsyncClient) -> None:
    long = await http.post("/v1/responses", json={"input": "word " * 5000, "stream": True})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert (await http.get("/v1/responses")).status_code == 405
    for query in ("starting_after=x", "starting_after=-2"):
        missing = await http.get(f"/v1/responses/resp_1?stream=true&{query}")
        assert missing.status_code == 404
    key = await http.post("/v1/responses", json={"input": "x"}, headers={"Idempotency-Key": "k" * 256})
    assert key.status_code == 400
    made = (await http.post("/v1/responses", json={"input": QUESTION, "max_output_tokens": 1})).json()
    for query in (f"stream=true&starting_after={text}" for text in ("x", "-2", "9" * 5000)):
        assert (await http.get(f"/v1/responses/{made['id']}?{query}")).status_code == 400
    for query in ("limit=0", "limit=101", "order=up", "after=nothing"):
        assert (await http.get(f"/v1/responses/{made['id']}/input_items?{query}")).status_code == 400


async def test_an_answer_that_fails_is_told_as_failed(http: httpx.AsyncClient, server: Served) -> None:
    """The canister is stopped in the midst of it."""
    begun = (await http.post("/v1/responses", json={**ENDLESS, "input": QUESTION, "background": True})).json()
    canister = server.host.default
    await until(lambda: bool(canister.answers.calls(begun["id"])))
    live = canister.live_answers.find(begun["id"])
    assert live is not None
    error = {"message": "no room on the disk", "http_status": 507, "error_code": ""}
    await canister.answers.end(begun["id"], "failed", error)
    live.cancel()
    await until(lambda: canister.live_answers.find(begun["id"]) is None)
    failed = (await http.get(f"/v1/responses/{begun['id']}")).json()
    check_object(failed)
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "server_error", "message": "no room on the disk"}
    events = events_of((await http.get(f"/v1/responses/{begun['id']}?stream=true")).text)
    check_events(events)
    assert [event["type"] for event in events][-1] == "response.failed"
    assert "error" in [event["type"] for event in events]
    assert events[-1]["response"]["output"] == failed["output"]


async def test_one_canisters_door(server: Served) -> None:
    async with connected(server, "carol", "/canisters/llama_cpp/v1") as client:
        made = await client.responses.create(**GREEDY, input=QUESTION)
        assert (await client.responses.retrieve(made.id)).output_text == made.output_text
