"""The form of completions, whole and as they come: texts, probabilities, the prompt's too."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from canister.api.tokens import Likely, Token
from canister.server.doors.openai import completion_answer as completions
from canister.server.doors.openai.chat_answer import LOWEST, Head
from canister.server.doors.openai.completion_answer import offsets_in
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    Progress,
    PromptScored,
    TextDelta,
    Timings,
    Usage,
)

pytestmark = pytest.mark.anyio

HEAD = Head("cmpl-1", 5, "llama_cpp", "b1")
DONE = Done(Usage(3, 1, 4, 0, 2, 10, 20), Timings(1, 2, 0.5, 4, 2.0))
TOKENS = (Token(1, b"On", -0.5, (Likely(1, b"On", -0.5), Likely(2, b"In", -1.5))), Token(3, b"ce", float("-inf")))


async def each(events: Sequence[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


async def chunks(events: Sequence[Event], head: Head, n: int, echoed: Sequence[str] = ()) -> list[Any]:
    frames = [frame async for frame in completions.stream(each(events), head, n, echoed)]
    assert frames[0] == b""  # the head may go out
    assert frames[-1] == b"data: [DONE]\n\n"
    assert all(frame.startswith(b"data: ") and frame.count(b"\n") == 2 for frame in frames[1:])
    return [json.loads(frame[6:]) for frame in frames[1:-1]]


async def test_the_members_of_an_answer() -> None:
    answer, usage = await completions.whole(each([Begun(3), TextDelta(0, "Hi"), Finished(0, "stop"), DONE]), HEAD, 1)
    assert usage == DONE.usage
    assert answer.pop("timings")["predicted_n"] == 4
    assert answer.pop("usage")["total_tokens"] == 7
    assert answer == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 5,
        "model": "llama_cpp",
        "system_fingerprint": "b1",
        "choices": [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "stop"}],
    }


async def test_a_stream_put_together_is_the_whole_answer() -> None:
    head = Head("cmpl-1", 5, "llama_cpp", "b1", wants_logprobs=True, wants_usage=True)
    events = [
        Begun(3),
        Progress(3, 1, 3, 0.5),
        TextDelta(1, "é"),
        TextDelta(0, "Once", TOKENS),
        Finished(1, "length"),
        TextDelta(0, "!", (Token(5, b"!", -1.0),)),
        Finished(0, "stop"),
        DONE,
    ]
    answer, _ = await completions.whole(each(events), head, 2, ["One. ", "Two. "])
    first, second = answer["choices"]
    assert (first["text"], second["text"]) == ("One. Once!", "Two. é")
    assert first["logprobs"] == {
        "tokens": ["On", "ce", "!"],
        "token_logprobs": [-0.5, LOWEST, -1.0],
        "top_logprobs": [{"On": -0.5, "In": -1.5}, {}, {}],
        "text_offset": [5, 7, 9],
    }
    parts = await chunks(events, head, 2, ["One. ", "Two. "])
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"] == answer["usage"]
    found = [choice for part in parts for choice in part["choices"]]
    for index, whole in enumerate((first, second)):
        own = [choice for choice in found if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == whole["text"]
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == [whole["finish_reason"]]
        told = [choice["logprobs"] for choice in own if choice["logprobs"]]
        offsets = [offset for part in told for offset in part["text_offset"]]
        assert offsets == whole["logprobs"]["text_offset"]


async def test_of_several_answers_the_likeliest_are_told() -> None:
    deltas = [TextDelta(n, f"{n}", (Token(n, b"", float(-n % 3)), Token(n, b"", 0.0))) for n in range(6)]
    ends: list[Event] = [Finished(n, "stop") for n in range(6)]
    answer, _ = await completions.whole(each([Begun(3), *deltas, *ends, DONE]), HEAD, 6, best=(2, 3))
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "1"),
        (1, "2"),
        (2, "4"),
        (3, "5"),
    ]
    assert {choice["logprobs"] for choice in answer["choices"]} == {None}


# -- the prompt's probabilities


SCORED = (Token(0, b"<s>"), Token(1, b"Hel", -2.0, (Likely(9, b"By", -0.5),)), Token(2, b"lo", -1.0))


async def test_the_tokens_of_the_prompt_come_first() -> None:
    head = Head("cmpl-1", 5, "llama_cpp", "b1", wants_logprobs=True, wants_prompt_logprobs=True)
    events = [
        Begun(3),
        PromptScored(0, 2, 0, SCORED[:2], 3),
        PromptScored(0, 2, 0, SCORED[:2], 3),  # a call that was made again
        TextDelta(1, "", (Token(6, b"", -0.5),)),  # the end of a choice that runs by itself
        Finished(1, "stop"),
        PromptScored(0, 2, 2, SCORED[2:], 3),
        PromptScored(0, 2, 0, SCORED, 3),  # an answer that was gone on with
        TextDelta(0, " you", (Token(5, b" you", -0.25),)),
        Finished(0, "length"),
        DONE,
    ]
    answer, _ = await completions.whole(each(events), head, 2, ["Hello", "Hello"])
    first, second = answer["choices"]
    assert (first["text"], second["text"]) == ("Hello you", "Hello")
    assert first["logprobs"] == {
        "tokens": ["<s>", "Hel", "lo", " you"],
        "token_logprobs": [None, -2.0, -1.0, -0.25],
        "top_logprobs": [None, {"By": -0.5}, {}, {}],
        "text_offset": [0, 0, 3, 5],
    }
    assert second["logprobs"]["token_logprobs"] == [None, -2.0, -1.0, -0.5]
    parts = await chunks(events, head, 2, ["Hello", "Hello"])
    found = [choice for part in parts for choice in part["choices"]]
    for index, whole in enumerate((first, second)):
        own = [choice for choice in found if choice["index"] == index]
        assert own[0]["text"] == "Hello"
        assert "".join(choice["text"] for choice in own) == whole["text"]
        for name, values in whole["logprobs"].items():
            assert [one for choice in own if choice["logprobs"] for one in choice["logprobs"][name]] == values


async def test_the_likeliest_answers_are_told_without_regard_to_their_prompt() -> None:
    events: list[Event] = [Begun(3), PromptScored(0, 2, 0, SCORED, 3)]
    events += [TextDelta(n, f"{n}", (Token(n, b"", float(n - 2)),)) for n in range(2)]
    answer, _ = await completions.whole(
        each([*events, Finished(0, "stop"), Finished(1, "stop"), DONE]), HEAD, 2, ["", ""], best=(1, 2)
    )
    assert [choice["text"] for choice in answer["choices"]] == ["1"]


@pytest.mark.parametrize(
    ("text", "pieces", "offsets"),
    [
        ("Hello", [b"Hel", b"lo"], [0, 3]),
        ("Hello", [b"<s>", b" Hel", b"lo"], [0, 0, 3]),
        ("é!", ["é".encode()[:1], "é".encode()[1:], b"!"], [0, 0, 1]),
        ("a\ufffdb", [b"a", b"\xff", b"b"], [0, 1, 2]),
        ("", [b"<s>"], [0]),
        ("ab", [b"a"], [0]),
    ],
)
def test_where_tokens_begin(text: str, pieces: list[bytes], offsets: list[int]) -> None:
    assert offsets_in(text, [Token(0, piece) for piece in pieces]) == offsets
