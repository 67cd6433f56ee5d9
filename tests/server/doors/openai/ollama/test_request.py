"""Requests of Ollama's interface become requests in OpenAI's form."""

from __future__ import annotations

from typing import Any

import pytest

from canister.server.doors.openai.errors import DoorError
from canister.server.doors.openai.ollama.request import (
    asks_for_nothing,
    bare_name,
    chat_body,
    generate_body,
    is_raw,
    is_streamed,
    raw_body,
)

USER = {"role": "user", "content": "Hi"}


def chat(**fields: Any) -> dict[str, Any]:
    return chat_body({"model": "m:latest", "messages": [USER], **fields})


def test_a_plain_chat() -> None:
    asked = chat(options=None, format="", keep_alive="5m", stream=False)
    assert {key: value for key, value in asked.items() if value is not None} == {"model": "m", "messages": [USER]}
    assert chat(tools=[{"type": "function"}], tool_choice="required")["tool_choice"] == "required"


def test_names_and_streams() -> None:
    assert (bare_name("m:latest"), bare_name("m"), bare_name("m:7b"), bare_name(None)) == ("m", "m", "m:7b", None)
    assert is_streamed({})
    assert is_streamed({"stream": None})
    assert not is_streamed({"stream": False})
    with pytest.raises(DoorError, match="true or false"):
        is_streamed({"stream": "yes"})


def test_options() -> None:
    options = {"num_predict": 7, "stop": ["END"], "seed": 3, "top_k": 5, "min_p": 0.1, "num_ctx": 4096, "tfs_z": 1}
    asked = chat(options=options)
    assert {key: asked[key] for key in asked if key not in ("model", "messages", "tools", "tool_choice")} == {
        "max_tokens": 7,
        "stop": ["END"],
        "seed": 3,
        "top_k": 5,
        "min_p": 0.1,
    }
    assert "max_tokens" not in chat(options={"num_predict": -1})
    assert "max_tokens" not in chat(options={"num_predict": -2})
    assert chat(options={"num_predict": 0})["max_tokens"] == 0


def test_format_and_thinking() -> None:
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    schema = {"type": "integer"}
    assert chat(format=schema)["response_format"] == {"type": "json_schema", "json_schema": {"schema": schema}}
    assert chat(think=False)["chat_template_kwargs"] == {"enable_thinking": False}
    asked = chat(think="high")
    assert (asked["chat_template_kwargs"], asked["reasoning_effort"]) == ({"enable_thinking": True}, "high")
    asked = chat(logprobs=True, top_logprobs=2)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)


def test_tool_calls_and_results_find_each_other() -> None:
    calls = [{"function": {"name": name, "arguments": {"x": 1}}} for name in ("f", "g")]
    messages = [
        USER,
        {"role": "assistant", "content": "", "thinking": "Hm", "tool_calls": calls},
        {"role": "tool", "content": "of g", "tool_name": "g"},
        {"role": "tool", "content": "of f"},
    ]
    _, assistant, first, second = chat(messages=messages)["messages"]
    assert assistant["reasoning_content"] == "Hm"
    assert [(call["id"], call["function"]) for call in assistant["tool_calls"]] == [
        ("call_0", {"name": "f", "arguments": '{"x": 1}'}),
        ("call_1", {"name": "g", "arguments": '{"x": 1}'}),
    ]
    assert (first["tool_call_id"], first["name"], second["tool_call_id"]) == ("call_1", "g", "call_0")


def test_calls_of_a_later_turn_have_names_of_their_own() -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    messages = [USER, said, {"role": "tool", "content": "1"}, said, {"role": "tool", "content": "2"}]
    made = chat(messages=messages)["messages"]
    keys = [made[1]["tool_calls"][0]["id"], made[3]["tool_calls"][0]["id"]]
    assert len(set(keys)) == 2
    assert [made[2]["tool_call_id"], made[4]["tool_call_id"]] == keys


def test_texts() -> None:
    asked = generate_body({"model": "m", "prompt": "Hi", "system": "Be brief"})
    assert asked["messages"] == [{"role": "system", "content": "Be brief"}, USER]
    asked = raw_body({"model": "m", "prompt": "Hi", "raw": True, "system": "no", "format": {"type": "null"}})
    assert asked == {"model": "m", "prompt": "Hi", "json_schema": {"type": "null"}}
    assert raw_body({"model": "m", "format": "json", "logprobs": True, "top_logprobs": 3}) == {
        "model": "m",
        "prompt": "",
        "json_schema": {},
        "logprobs": 3,
    }
    assert is_raw({"prompt": "Hi", "suffix": "x"})
    assert not is_raw({"prompt": "Hi", "raw": False})


@pytest.mark.parametrize(("body", "is_empty"), [({}, True), ({"messages": []}, True), ({"prompt": "Hi"}, False)])
def test_requests_for_nothing(body: dict[str, Any], is_empty: bool) -> None:
    assert asks_for_nothing(body) is is_empty


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "images": ["aGk="]}]}, "messages[0].images"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        ({"options": []}, "options"),
        ({"options": {"num_predict": "many"}}, "options.num_predict"),
        ({"format": "xml"}, "format"),
        ({"think": "much"}, "think"),
    ],
)
def test_what_is_wrong_is_told_by_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(DoorError) as caught:
        chat(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": 1}, "prompt"),
        ({"images": ["aGk="]}, "images"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
    ],
)
def test_what_a_text_cannot_have(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(DoorError) as caught:
        generate_body({"model": "m", **fields})
    assert (caught.value.status, caught.value.param) == (400, param)
