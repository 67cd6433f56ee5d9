"""Answers of Anthropic's Messages: whole and streamed say the same, however the model's text was cut."""

from __future__ import annotations

import json

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from pydantic import TypeAdapter
from pydantic_core import from_json

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
    Usage,
)
from canister.server.doors.openai.messages.answer import About, Stream, whole
from tests.server.doors.openai.made_events import Said, two_cuts

ABOUT = About("msg_1", "llama_cpp")
_EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def sent(events: list[Event], about: About = ABOUT) -> list[tuple[str, dict]]:
    """The events of a stream: names and data."""
    stream = Stream(about)
    text = b"".join(map(stream.feed, events)).decode()
    found = []
    for block in text.split("\n\n")[:-1]:
        first, second = block.split("\n")
        name, data = first.removeprefix("event: "), json.loads(second.removeprefix("data: "))
        assert data["type"] == name
        found.append((name, data))
    return found


def put_together(events: list[Event]) -> dict:
    """What Anthropic's own helper makes of a stream."""
    message, buffers = None, {}
    for _, data in sent(events):
        event = _EVENTS.validate_python(data)
        message = accumulate_event(event=event, current_snapshot=message, json_bufs=buffers)
    assert message is not None
    return message.to_dict()


@settings(deadline=None)
@given(two_cuts())
def test_any_cut_gives_the_same_whole(made: tuple[list[Said], Finished, list[Event], list[Event]]) -> None:
    said, end, first, second = made
    answer = whole(ABOUT, first)
    assert answer == whole(ABOUT, second)
    assert len(answer["content"]) == len(said)
    for block, part in zip(answer["content"], said, strict=True):
        match part.kind:
            case "text":
                assert block == {"type": "text", "text": part.text}
            case "thought":
                assert block == {"type": "thinking", "thinking": part.text, "signature": ""}
            case _ if part.is_whole:
                assert block["input"] == json.loads(part.text)
            case _:
                assert block["input"] == (from_json(part.text, allow_partial=True) if part.text else {})
    assert answer["usage"]["output_tokens"] == end.n_generated


@settings(deadline=None)
@given(two_cuts())
def test_anthropics_helper_makes_the_whole_answer_of_any_stream(
    made: tuple[list[Said], Finished, list[Event], list[Event]],
) -> None:
    _, _, first, second = made
    found = put_together(first)
    answer = whole(ABOUT, second)
    for key in ("input_tokens", "cache_read_input_tokens", "output_tokens"):
        assert found["usage"].pop(key) == answer["usage"].pop(key)
    del found["usage"], answer["usage"]
    assert {key: found[key] for key in answer} == answer


def test_the_events_of_a_stream() -> None:
    events: list[Event] = [
        Begun(10),
        Progress(10, 4, 10, 0.1),
        ThoughtDelta(0, "Hm"),
        TextDelta(0, "Let me "),
        TextDelta(0, "see"),
        ToolBegun(0, 0, "call_a", "weather"),
        ToolArguments(0, 0, '{"city":'),
        ToolArguments(0, 0, '"Bern"}'),
        Finished(0, "tool_calls", None, 9),
        Done(Usage(10, 4, 9, 1, 2, 1000, 7)),
    ]
    found = sent(events)
    assert [
        name if "delta" not in name or "delta" not in data["delta"].get("type", "") else data["delta"]["type"]
        for name, data in found
    ] == [
        "message_start",
        *("content_block_start", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "input_json_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert [data["index"] for name, data in found if name == "content_block_start"] == [0, 1, 2]
    start = found[0][1]["message"]
    assert start["content"] == []
    assert start["stop_reason"] is None
    assert (start["usage"]["input_tokens"], start["usage"]["cache_read_input_tokens"]) == (10, 0)
    blocks = [data["content_block"] for name, data in found if name == "content_block_start"]
    assert blocks[2] == {"type": "tool_use", "id": "call_a", "name": "weather", "input": {}}
    end = found[-2][1]
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert end["usage"] == {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 1},
        "instructions": 1000,
        "cycles": 7,
        "calls": 2,
    }


@pytest.mark.parametrize(
    ("end", "reason", "stop"),
    [
        (Finished(0, "stop"), "end_turn", None),
        (Finished(0, "stop", "END"), "stop_sequence", "END"),
        (Finished(0, "length"), "max_tokens", None),
        (Finished(0, "tool_calls"), "tool_use", None),
    ],
)
def test_why_an_answer_ended(end: Finished, reason: str, stop: str | None) -> None:
    events: list[Event] = [Begun(1), end, Done(Usage(1, 0, 1))]
    answer = whole(ABOUT, events)
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, stop)
    assert sent(events)[-2][1]["delta"] == {"stop_reason": reason, "stop_sequence": stop}


def test_thoughts_that_are_not_to_be_shown_leave_an_empty_block() -> None:
    about = About("msg_1", "llama_cpp", hides_thoughts=True)
    events: list[Event] = [
        Begun(1),
        ThoughtDelta(0, "secret"),
        TextDelta(0, "Hi"),
        Finished(0, "stop"),
        Done(Usage(1, 0, 2, 1)),
    ]
    assert whole(about, events)["content"] == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": "Hi"},
    ]
    assert "secret" not in json.dumps(sent(events, about))
