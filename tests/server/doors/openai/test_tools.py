"""Tools as OpenAI's own client offers them, called by a real model, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from jsonschema import validate

pytestmark = pytest.mark.anyio

ASK: Any = [{"role": "user", "content": "Who are you?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Rome"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "n"],
}


def tool(name: str, parameters: object) -> Any:
    return {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": parameters}}


TOOLS: Any = [tool("get_weather", CITY), tool("get_time", None)]


async def test_a_model_that_must_call_a_tool_calls_it(client: openai.AsyncOpenAI) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        asked: Any = {
            "model": "x",
            "messages": ASK,
            "tools": TOOLS,
            "tool_choice": choice,
            "seed": 3,
            "max_tokens": 200,
        }
        whole = await client.chat.completions.create(**asked, parallel_tool_calls=False)
        (answer,) = whole.choices
        assert answer.finish_reason == "tool_calls"
        (call,) = answer.message.tool_calls or []
        assert call.type == "function"
        assert call.function.name in (("get_weather", "get_time") if choice == "required" else ("get_weather",))
        arguments = json.loads(call.function.arguments)
        validate(arguments, CITY if call.function.name == "get_weather" else {"maxProperties": 0})

        stream = await client.chat.completions.create(**asked, parallel_tool_calls=False, stream=True)
        parts = [chunk.choices[0] async for chunk in stream]
        deltas = [delta for part in parts for delta in part.delta.tool_calls or ()]
        assert [delta.function.name for delta in deltas if delta.function and delta.function.name] == [
            call.function.name
        ]
        assert "".join(delta.function.arguments or "" for delta in deltas if delta.function) == call.function.arguments
        assert parts[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("temperature", [0, 1])
async def test_a_function_that_is_named_is_called_once(client: openai.AsyncOpenAI, temperature: int) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    for seed in range(3):
        whole = await client.chat.completions.create(
            model="x", messages=ASK, tools=TOOLS, tool_choice=named, temperature=temperature, seed=seed, max_tokens=400
        )
        (answer,) = whole.choices
        assert answer.finish_reason == "tool_calls"
        (call,) = answer.message.tool_calls or []
        assert call.type == "function"
        validate(json.loads(call.function.arguments), CITY)


async def test_a_call_that_is_cut_off_is_none(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(
        model="x", messages=ASK, tools=TOOLS, tool_choice="required", max_tokens=8, seed=3
    )
    assert whole.choices[0].finish_reason == "length"
    assert not whole.choices[0].message.tool_calls
    assert "<tool" not in (whole.choices[0].message.content or "")


async def test_a_tool_that_cannot_be_bound_is_refused_by_name(client: openai.AsyncOpenAI) -> None:
    wrong = tool("wrong", {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}})
    with pytest.raises(openai.BadRequestError, match=r"'wrong'.*uniqueItems") as raised:
        await client.chat.completions.create(model="x", messages=ASK, tools=[*TOOLS, wrong], max_tokens=3)
    assert raised.value.param == "tools"
