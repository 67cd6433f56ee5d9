"""Events of a turn as those of Responses: numbered, each of the SDK's own types, put together by the SDK's own code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai._models import construct_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

from canister.api.tokens import Likely, Token
from canister.server.doors.openai.chat_answer import LOWEST
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    Progress,
    TextDelta,
    ThoughtDelta,
    ToolArguments,
    ToolBegun,
    ToolDone,
    Usage,
)
from canister.server.doors.openai.responses.converter import Converter, response_of
from tests.server.doors.openai.responses.sdk import check_event, check_events, check_object

BASE: dict[str, Any] = {
    "id": "resp_0123456789abcdef",
    "object": "response",
    "created_at": 1_700_000_000,
    "model": "llama_cpp",
    "background": False,
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "temperature": 0.8,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 0.95,
    "truncation": "disabled",
    "store": True,
}
USAGE = Usage(n_prompt=7, n_cached=3, n_generated=5, n_thought=2, n_calls=2, instructions=10, cycles=20)
TOKEN = Token(5, b"\xf0\x9f", -0.5, (Likely(5, b"\xf0\x9f", -0.5), Likely(6, b"x", float("-inf"))))

texts = st.text(min_size=1, max_size=6)
tools = st.lists(texts, max_size=4).map(
    lambda parts: [
        ToolBegun(0, 0, "call_1", "weather"),
        *(ToolArguments(0, 0, part) for part in parts),
        ToolDone(0, 0),
    ]
)
deltas: st.SearchStrategy[list[Event]] = st.lists(
    st.one_of(
        texts.map(lambda text: [ThoughtDelta(0, text)]),
        texts.map(lambda text: [TextDelta(0, text, (TOKEN,))]),
        tools,
    ),
    max_size=8,
).map(lambda groups: [event for group in groups for event in group])
finishes = st.sampled_from(["stop", "length", "tool_calls"])


def converted(events: Sequence[Event], **base: Any) -> tuple[Converter, list[dict[str, Any]]]:
    converter = Converter(BASE | base)
    return converter, [made for event in events for made in converter.feed(event)]


def whole(deltas: Sequence[Event], finish: Any = "stop") -> list[Event]:
    return [Begun(7), Progress(7, 3, 7, 0.1), *deltas, Finished(0, finish), Done(USAGE)]


def types(made: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in made]


def split(event: Event, n: int) -> list[Event]:
    """The same text in two deltas."""
    if isinstance(event, TextDelta | ThoughtDelta) and 0 < n < len(event.text):
        return [event._replace(text=event.text[:n]), event._replace(text=event.text[n:], tokens=())]
    return [event]


@settings(deadline=None)
@given(deltas, finishes, st.booleans())
def test_the_sdk_takes_every_event_and_puts_the_same_answer_together(
    deltas: list[Event], finish: str, background: bool
) -> None:
    converter, made = converted(whole(deltas, finish), background=background)
    check_events(made)
    response = converter.response()
    check_object(response)
    assert made[-1]["response"] == response
    state: Any = ResponseStreamState(input_tools=[], text_format=omit)
    for event in made:
        told: Any = construct_type(value=event, type_=ResponseStreamEvent)
        state.handle_event(told)
    added = [event["output_index"] for event in made if event["type"] == "response.output_item.added"]
    assert added == list(range(len(response["output"])))


@settings(deadline=None)
@given(deltas, finishes, st.integers(1, 5))
def test_wherever_texts_are_cut_the_whole_is_the_same(deltas: list[Event], finish: str, n: int) -> None:
    cut = [part for event in deltas for part in split(event, n)]
    assert converted(whole(cut, finish))[0].response() == converted(whole(deltas, finish))[0].response()


@settings(deadline=None)
@given(deltas, finishes)
def test_what_is_read_again_is_the_same(deltas: list[Event], finish: str) -> None:
    assert converted(whole(deltas, finish))[1] == converted(whole(deltas, finish))[1]


@settings(deadline=None)
@given(deltas, st.integers(0, 12), st.sampled_from(["fail", "cancel", "leave"]))
def test_an_answer_that_is_cut_off_anywhere_is_told_well(deltas: list[Event], n: int, how: str) -> None:
    converter, made = converted([Begun(7), *deltas][: 1 + n])
    if how == "fail":
        made += converter.fail("server_error", "the disk is full")
    else:
        made += converter.stop("cancelled" if how == "cancel" else "incomplete")
    check_events(made)
    response = made[-1]["response"]
    assert response["status"] == {"fail": "failed", "cancel": "cancelled", "leave": "incomplete"}[how]
    assert (response["error"] is None) == (how != "fail")
    assert all(item["status"] in ("completed", "incomplete") for item in response["output"])
    check_object(response)


def test_all_that_there_is() -> None:
    converter, made = converted(
        whole(
            [
                ThoughtDelta(0, "Hm"),
                ThoughtDelta(0, "m."),
                TextDelta(0, "Let me "),
                TextDelta(0, "see", (TOKEN,)),
                ToolBegun(0, 0, "call_7", "weather"),
                ToolArguments(0, 0, '{"city":'),
                ToolArguments(0, 0, '"Bern"}'),
                ToolDone(0, 0),
            ],
            "tool_calls",
        )
    )
    assert types(made) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]
    thought, message, call = converter.response()["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hmm."}]
    assert message["content"][0]["text"] == "Let me see"
    (logprob,) = message["content"][0]["logprobs"]
    assert logprob["bytes"] == [0xF0, 0x9F]
    assert [one["logprob"] for one in logprob["top_logprobs"]] == [-0.5, LOWEST]
    assert (call["call_id"], call["name"], call["arguments"]) == ("call_7", "weather", '{"city":"Bern"}')
    assert [item["status"] for item in (thought, message, call)] == ["completed"] * 3
    assert {response_of(item["id"]) for item in (thought, message, call)} == {BASE["id"]}
    assert converter.response()["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
        "instructions": 10,
        "cycles": 20,
        "calls": 2,
    }


def test_a_call_that_is_cut_is_not_told_as_whole() -> None:
    cut: list[Event] = [ToolBegun(0, 0, "call_7", "weather"), ToolArguments(0, 0, '{"ci')]
    converter, made = converted(whole(cut, "length"))
    assert "function_call_arguments.done" not in types(made)
    response = converter.response()
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["arguments"] == '{"ci'


def test_one_of_the_background_is_queued_first() -> None:
    _, made = converted([Begun(7)], background=True)
    assert types(made) == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in made] == ["queued", "queued", "in_progress"]


def test_an_empty_answer_has_a_message() -> None:
    converter, _ = converted(whole([]))
    (item,) = converter.response()["output"]
    assert item["content"][0]["text"] == ""


def test_the_object_can_be_had_at_any_time() -> None:
    converter, _ = converted([Begun(7), TextDelta(0, "so "), TextDelta(0, "far")])
    response = converter.response()
    assert response["output"][0]["content"][0]["text"] == "so far"
    assert response["status"] == response["output"][0]["status"] == "in_progress"
    check_object(response)


@pytest.mark.parametrize("id", ["msg_", "msg_12", "call_00000000", "resp_0123456789", "x", ""])
def test_ids_that_are_not_of_ours_name_no_answer(id: str) -> None:
    assert response_of(id) is None


def test_the_check_of_these_tests_finds_what_is_missing() -> None:
    _, made = converted([Begun(7), TextDelta(0, "x")])
    broken = dict(made[-1])
    del broken["item_id"]
    with pytest.raises(ValueError, match="item_id"):
        check_event(broken)
