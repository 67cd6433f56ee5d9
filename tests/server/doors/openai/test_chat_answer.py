"""Events as chat completions: put together, the chunks of a stream are the whole answer, however its texts are cut."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.api.tokens import Likely, Token
from canister.server.doors.openai import chat_answer
from canister.server.doors.openai.chat_answer import Head
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    Progress,
    TextDelta,
    ThoughtDelta,
    Timed,
    Timings,
    ToolArguments,
    ToolBegun,
    ToolDone,
    Usage,
)

pytestmark = pytest.mark.anyio

HEAD = Head("chatcmpl-1", 5, "llama_cpp", "b1")
BEGUN, DONE = Begun(3, 7, "the prompt"), Done(Usage(3, 1, 4, 1, 2, 10, 20), Timings(1, 2, 0.5, 4, 2.0))
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


async def each(events: Sequence[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


async def chunks(events: Sequence[Event], head: Head = HEAD, n: int = 1) -> list[Any]:
    """The data of the server-sent events, of which each is one piece."""
    frames = [frame async for frame in chat_answer.stream(each(events), head, n)]
    assert all(frame.startswith(b"data: ") and frame.endswith(b"\n\n") and frame.count(b"\n") == 2 for frame in frames)
    assert frames.pop() == b"data: [DONE]\n\n"
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def put_together(parts: list[Any]) -> list[Any]:
    """What a client makes of the chunks: the choices of the whole answer."""
    found: dict[int, dict[str, Any]] = {}
    for part in parts:
        for choice in part["choices"]:
            whole = found.setdefault(choice["index"], {"content": "", "thoughts": "", "calls": [], "finish": None})
            delta = choice["delta"]
            whole["content"] += delta.get("content") or ""
            whole["thoughts"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    assert call["index"] == len(whole["calls"])
                    whole["calls"].append([call["id"], call["function"]["name"], ""])
                assert ("name" in call["function"]) == ("id" in call)
                whole["calls"][call["index"]][2] += call["function"]["arguments"]
            if choice["finish_reason"] is not None:
                assert whole["finish"] is None
                whole["finish"] = choice["finish_reason"]
    return [found[index] for index in sorted(found)]


@st.composite
def choices(draw: st.DrawFn, index: int) -> list[Event]:
    events: list[Event] = [ThoughtDelta(index, text) for text in draw(st.lists(TEXT, max_size=3))]
    events += [TextDelta(index, text) for text in draw(st.lists(TEXT, max_size=3))]
    for call in range(draw(st.integers(0, 2))):
        events.append(ToolBegun(index, call, f"call_{index}_{call}", draw(TEXT)))
        events += [ToolArguments(index, call, text) for text in draw(st.lists(TEXT, max_size=3))]
        events.append(ToolDone(index, call))
    events.append(Finished(index, draw(st.sampled_from(["stop", "length", "tool_calls"]))))
    return events


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[Event]]:
    """How many choices, and the events of an answer, those of the choices between each other."""
    parts = [draw(choices(index)) for index in range(draw(st.integers(1, 3)))]
    order = draw(st.permutations([index for index, part in enumerate(parts) for _ in part]))
    left = [iter(part) for part in parts]
    return len(parts), [BEGUN, *(next(left[index]) for index in order), DONE]


@given(answers())
async def test_a_stream_put_together_is_the_whole_answer(made: tuple[int, list[Event]]) -> None:
    n, events = made
    answer, usage = await chat_answer.whole(each(events), HEAD)
    assert usage == DONE.usage
    assert put_together(await chunks(events, n=n)) == [
        {
            "content": choice["message"]["content"] or "",
            "thoughts": choice["message"].get("reasoning_content", ""),
            "calls": [
                [call["id"], call["function"]["name"], call["function"]["arguments"]]
                for call in choice["message"].get("tool_calls", ())
            ],
            "finish": choice["finish_reason"],
        }
        for choice in answer["choices"]
    ]


async def test_the_members_of_an_answer() -> None:
    answer, _ = await chat_answer.whole(each([BEGUN, TextDelta(0, "Hi"), Finished(0, "stop"), DONE]), HEAD)
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "llama_cpp",
        "system_fingerprint": "b1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
            "instructions": 10,
            "cycles": 20,
            "calls": 2,
        },
        "timings": {
            "cache_n": 1,
            "prompt_n": 2,
            "prompt_ms": 500.0,
            "prompt_per_token_ms": 250.0,
            "prompt_per_second": 4.0,
            "predicted_n": 4,
            "predicted_ms": 2000.0,
            "predicted_per_token_ms": 500.0,
            "predicted_per_second": 2.0,
        },
    }


async def test_the_order_of_a_stream() -> None:
    events = [BEGUN, TextDelta(0, "é"), Finished(0, "stop"), DONE]
    first, text, last = await chunks(events)
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": None}, "logprobs": None, "finish_reason": None}
    ]
    assert text["choices"][0]["delta"] == {"content": "é"}
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert last["timings"]["predicted_n"] == 4
    *_, last, usage = await chunks(events, Head("i", 1, "m", "f", wants_usage=True))
    assert "timings" not in last
    assert (usage["choices"], usage["usage"]["total_tokens"], usage["timings"]["cache_n"]) == ([], 7, 1)


async def test_probabilities_come_with_the_chunk_that_shows_the_token() -> None:
    head = Head("i", 1, "m", "f", wants_logprobs=True)
    tokens = (Token(5, b"\xc3", -0.5), Token(6, b"\xa9", -math.inf, (Likely(7, b"x", -0.25),)))
    events = [BEGUN, TextDelta(0, "é", tokens), TextDelta(0, "!", ()), Finished(0, "stop"), DONE]
    told = [
        {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.5, "bytes": [0xC3], "top_logprobs": []},
        {
            "token": "\N{REPLACEMENT CHARACTER}",
            "logprob": chat_answer.LOWEST,
            "bytes": [0xA9],
            "top_logprobs": [{"token": "x", "logprob": -0.25, "bytes": [120]}],
        },
    ]
    answer, _ = await chat_answer.whole(each(events), head)
    assert answer["choices"][0]["logprobs"] == {"content": told, "refusal": None}
    _, shown, plain, _ = await chunks(events, head)
    assert shown["choices"][0]["logprobs"] == {"content": told, "refusal": None}
    assert plain["choices"][0]["logprobs"] is None


async def test_what_a_request_may_ask_for_besides() -> None:
    events = [BEGUN, Progress(3, 1, 2, 0.25), Timed(Timings(1, 2)), TextDelta(0, "Hi"), Finished(0, "length"), DONE]
    head = Head("i", 1, "m", "f", wants_prompt=True)
    first, progress, text, _ = await chunks(events, head)
    assert first["__verbose"] == {"prompt": "the prompt"}
    assert progress["prompt_progress"] == {"total": 3, "cache": 1, "processed": 2, "time_ms": 250}
    assert progress["choices"][0]["delta"] == {}
    assert text["timings"]["prompt_n"] == 2
    answer, _ = await chat_answer.whole(each(events), head)
    assert answer["__verbose"] == {"prompt": "the prompt"}


async def test_a_call_without_text_has_no_content() -> None:
    events = [
        BEGUN,
        ToolBegun(0, 0, "c", "f"),
        ToolArguments(0, 0, "{}"),
        ToolDone(0, 0),
        Finished(0, "tool_calls"),
        DONE,
    ]
    answer, _ = await chat_answer.whole(each(events), HEAD)
    assert answer["choices"][0]["message"]["content"] is None
    begun = (await chunks(events))[1]["choices"][0]["delta"]["tool_calls"]
    assert begun == [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]
