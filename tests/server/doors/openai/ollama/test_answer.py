"""Ollama's answers: lines and the whole say the same, however the model's text was cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ollama import ChatResponse, GenerateResponse

from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    TextDelta,
    Timings,
    ToolArguments,
    ToolBegun,
    ToolDone,
    Usage,
)
from canister.server.doors.openai.ollama.answer import About, Stream, loaded, sent, whole
from tests.server.doors.openai.made_events import Said, cut, ends, turns, two_cuts

NOON = 1_764_504_000_000_000_123  # 2025-11-30T12:00:00Z


def about(kind: str = "chat", **fields: object) -> About:
    clock = itertools.count(NOON, 1_000)
    return About(kind, "llama_cpp:latest", lambda: next(clock), **fields)  # type: ignore[arg-type]


def lines(events: list[Event], kind: str = "chat", **fields: object) -> list[dict]:
    stream = Stream(about(kind, **fields))
    return [json.loads(sent(line)) for event in events for line in stream.feed(event)]


@settings(deadline=None)
@given(two_cuts(), st.sampled_from(["chat", "generate"]))
def test_any_cut_gives_the_same_whole(made: tuple[list[Said], Finished, list[Event], list[Event]], kind: str) -> None:
    said, end, first, second = made
    answer, other = whole(about(kind), first), whole(about(kind), second)
    for key in ("created_at", "total_duration"):  # of the clock, which every line looks at
        assert answer.pop(key)
        assert other.pop(key)
    assert answer == other
    message = answer["message"] if kind == "chat" else answer
    assert message["content" if kind == "chat" else "response"] == "".join(p.text for p in said if p.kind == "text")
    assert message.get("thinking", "") == "".join(part.text for part in said if part.kind == "thought")
    calls = [json.loads(part.text) for part in said if part.kind == "tool" and part.is_whole]
    assert [call["function"]["arguments"] for call in message.get("tool_calls", [])] == calls
    assert answer["done_reason"] == ("length" if end.finish == "length" else "stop")


@settings(deadline=None)
@given(st.data())
def test_logprobs_are_told_of_each_token(data: st.DataObject) -> None:
    said = data.draw(turns())
    events = data.draw(cut(said, data.draw(ends(said)), with_tokens=True))
    tokens = [token for event in events if hasattr(event, "tokens") for token in event.tokens]
    answer = whole(about(wants_logprobs=True), events)
    told = answer.get("logprobs", [])
    assert [bytes(one["bytes"]) for one in told] == [token.data for token in tokens]
    assert all(one["logprob"] == -0.5 and len(one["top_logprobs"]) == 2 for one in told)
    assert "logprobs" not in whole(about(), events)


def test_the_lines_of_a_chat() -> None:
    events: list[Event] = [
        Begun(10),
        TextDelta(0, "Hé"),
        ToolBegun(0, 0, "call_a", "weather"),
        ToolArguments(0, 0, '{"city":'),
        ToolArguments(0, 0, '"Bern"}'),
        ToolDone(0, 0),
        Finished(0, "tool_calls", None, 9),
        Done(Usage(10, 4, 9), Timings(4, 6, 0.25, 9, 0.5)),
    ]
    first, second, last = lines(events)
    assert first == {
        "model": "llama_cpp:latest",
        "created_at": "2025-11-30T12:00:00.000002123Z",
        "message": {"role": "assistant", "content": "Hé"},
        "done": False,
    }
    call = {"id": "call_a", "function": {"index": 0, "name": "weather", "arguments": {"city": "Bern"}}}
    assert second["message"] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert last["message"] == {"role": "assistant", "content": ""}
    assert {key: last[key] for key in last if key not in ("model", "created_at", "message")} == {
        "done": True,
        "done_reason": "stop",
        "total_duration": 5_000,
        "load_duration": 1_000,
        "prompt_eval_count": 10,
        "prompt_eval_duration": 250_000_000,
        "eval_count": 9,
        "eval_duration": 500_000_000,
    }
    for line in (first, second, last):
        ChatResponse(**line)


def test_generated_text_stands_beside_the_rest() -> None:
    events: list[Event] = [Begun(1), TextDelta(0, "a"), TextDelta(0, "b"), Finished(0, "length"), Done(Usage(1, 0, 2))]
    assert [line["response"] for line in lines(events, "generate")] == ["a", "b", ""]
    answer = whole(about("generate"), events)
    assert (answer["response"], answer["done_reason"], "message" in answer) == ("ab", "length", False)
    GenerateResponse(**answer)


@pytest.mark.parametrize("kind", ["chat", "generate"])
def test_who_asks_for_nothing_is_told_that_the_model_is_there(kind: str) -> None:
    answer = loaded(about(kind))
    assert (answer["done"], answer["done_reason"]) == (True, "load")
