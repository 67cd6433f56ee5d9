"""Items of Responses as messages of a chat: what clients send back, in all the forms in which they do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.server.doors.openai.errors import DoorError
from canister.server.doors.openai.responses.items import items_of, messages_of, references, with_ids
from tests.server.doors.openai.responses.test_converter import BASE, converted, deltas, whole

USER = {"role": "user", "content": "Hello"}
THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi", "annotations": []}]}
CALL = {"type": "function_call", "call_id": "c1", "name": "shell", "arguments": '{"a":1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "done"}


def messages(*items: dict[str, Any], instructions: str | None = None) -> tuple[dict[str, Any], ...]:
    return messages_of(items_of(list(items)), instructions)


def call(name: str = "shell", arguments: object = '{"a":1}', id: str = "c1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_text_is_the_users() -> None:
    assert messages_of(items_of("Hello"), "Be kind.") == (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
    )


def test_what_belongs_together_is_one_message() -> None:
    assert messages(USER, THOUGHT, SAID, CALL, {**CALL, "call_id": "c2"}, RESULT, {**RESULT, "call_id": "c2"}) == (
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": "Hi",
            "reasoning_content": "Hm",
            "tool_calls": [call(), call(id="c2")],
        },
        {"role": "tool", "content": "done", "tool_call_id": "c1"},
        {"role": "tool", "content": "done", "tool_call_id": "c2"},
    )


def test_what_codex_sends() -> None:
    """No type on messages, no id, no status; developer's words; thoughts that are encrypted; calls of hosted tools."""
    said = messages(
        {"role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm"}],
            "encrypted_content": "x",
            "id": None,
        },
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
        CALL,
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "out"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
        {"type": "custom_tool_call", "call_id": "c3", "name": "apply_patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "ok"},
        USER,
        instructions="You are Codex.",
    )
    assert said == (
        {"role": "system", "content": "You are Codex."},
        {"role": "system", "content": "<permissions>"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm", "tool_calls": [call()]},
        {"role": "tool", "content": "out", "tool_call_id": "c1"},
        {
            "role": "assistant",
            "content": "Done.",
            "tool_calls": [call("apply_patch", {"input": "*** Begin"}, "c3")],
        },
        {"role": "tool", "content": "ok", "tool_call_id": "c3"},
        {"role": "user", "content": "Hello"},
    )


def test_thoughts_that_led_to_nothing_are_left_out() -> None:
    assert messages(USER, THOUGHT, USER) == ({"role": "user", "content": "Hello"},) * 2


def test_thoughts_after_a_text_begin_another_message() -> None:
    first, second = messages(SAID, THOUGHT, CALL, RESULT)[:2]
    assert first["content"] == "Hi"
    assert second["reasoning_content"] == "Hm"
    assert second["tool_calls"] == [call()]


@given(deltas, st.sampled_from(["stop", "length"]))
def test_every_answer_can_be_sent_back(deltas: list[Any], finish: str) -> None:
    response = converted(whole(deltas, finish))[0].response()
    said = messages_of(items_of([USER, *response["output"], USER]))
    assert said[0] == said[-1] == {"role": "user", "content": "Hello"}
    texts = [item["content"][0]["text"] for item in response["output"] if item["type"] == "message"]
    assert [message["content"] for message in said[1:-1] if message["content"] is not None] == texts
    n_calls = sum(item["type"] == "function_call" for item in response["output"])
    assert sum(len(message.get("tool_calls", ())) for message in said) == n_calls


def test_items_are_listed_with_ids_and_keep_their_own() -> None:
    first, second = with_ids(items_of([USER, {**SAID, "id": "msg_1"}]), str(BASE["id"]))
    assert (first["id"], second["id"]) == ("in_0123456789abcdef0000", "msg_1")


def test_references_are_found_with_and_without_their_type() -> None:
    assert references(items_of([{"type": "item_reference", "id": "msg_1"}, {"id": "fc_2"}, USER])) == ["msg_1", "fc_2"]


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "input"),
        ([], "input"),
        (7, "input"),
        (["x"], "input[0]"),
        ([{}], "input[0].type"),
        ([{"type": "nonsense"}], "input[0].type"),
        ([{"role": "robot", "content": "x"}], "input[0].role"),
        ([USER, {"role": "user"}], "input[1].content"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_text", "text": 5}]}], "input[0].content[0].text"),
        ([{"type": "function_call", "name": "x", "arguments": "{}"}], "input[0].call_id"),
        ([{"type": "function_call", "call_id": "c", "arguments": "{}"}], "input[0].name"),
        ([{**CALL, "arguments": {}}], "input[0].arguments"),
        ([{"type": "function_call_output", "call_id": "c"}], "input[0].output"),
        ([{"type": "reasoning", "content": "x"}], "input[0].content"),
        ([THOUGHT], "input"),
        ([{"type": "item_reference", "id": 7}], "input[0].id"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0].id"),
        ([SAID, SAID], "input"),
        ([USER] * 10_001, "input"),
    ],
)
def test_what_is_wrong_is_named(value: object, param: str) -> None:
    with pytest.raises(DoorError) as caught:
        messages_of(items_of(value))
    assert caught.value.status == 400
    assert caught.value.param == param
    assert param in str(caught.value) or "not supported" in str(caught.value)
