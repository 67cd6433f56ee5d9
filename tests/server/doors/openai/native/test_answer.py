"""Answers of llama.cpp's `/completion`: short and long forms say the same, however the model's text was cut."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from canister.api.tokens import Likely, Token
from canister.server.doors.openai.chat_answer import LOWEST
from canister.server.doors.openai.events import Begun, Done, Event, Finished, Progress, TextDelta, Timed, Timings, Usage
from canister.server.doors.openai.native.answer import About, Answer, probabilities, selected, whole
from tests.server.doors.openai.made_events import Said, cut, ends, turns, two_cuts

ABOUT = About("llama_cpp", {"temperature": 0.5, "n_predict": 9}, "Once")
TEXT: list[Event] = [
    Begun(10, 7, "Once"),
    TextDelta(0, "a\n", (Token(5, b"a\n", -0.25, (Likely(5, b"a\n", -0.25),)),)),
    Finished(0, "stop", "END", 3),
    Done(Usage(10, 4, 3), Timings(4, 6, 0.5, 3, 0.25)),
]


def streamed(events: list[Event], about: About = ABOUT) -> list[dict]:
    answer = Answer(about)
    return [told for event in events for told in answer.feed(event)]


@settings(deadline=None)
@given(two_cuts())
def test_any_cut_gives_the_same_whole(made: tuple[list[Said], Finished, list[Event], list[Event]]) -> None:
    said, end, first, second = made
    [answer] = whole(ABOUT, first)
    assert [answer] == whole(ABOUT, second)
    assert answer["content"] == "".join(part.text for part in said)
    *short, last = streamed(second)
    assert "".join(told["content"] for told in short) == answer["content"]
    assert (last["content"], last["stop"]) == ("", True)
    assert all(told["stop"] is False for told in short)
    assert {**last, "content": answer["content"]} == answer
    assert answer["stop_type"] == {"length": "limit"}.get(end.finish, "word" if end.stop else "eos")


@settings(deadline=None)
@given(st.data())
def test_tokens_and_probabilities(data: st.DataObject) -> None:
    said = data.draw(turns())
    events = data.draw(cut(said, data.draw(ends(said)), with_tokens=True))
    tokens = [token for event in events if hasattr(event, "tokens") for token in event.tokens]
    about = replace(ABOUT, n_probs=2, returns_tokens=True)
    [answer] = whole(about, events)
    assert answer["tokens"] == [token.id for token in tokens]
    assert answer["completion_probabilities"] == probabilities(tokens)
    *short, last = streamed(events, about)
    assert [token for told in short for token in told["tokens"]] == answer["tokens"]
    assert [one for told in short for one in told.get("completion_probabilities", [])] == probabilities(tokens)
    assert (last["tokens"], "completion_probabilities" in last) == ([], False)
    assert whole(ABOUT, events)[0]["tokens"] == []


def test_the_long_form() -> None:
    [answer] = whole(ABOUT, TEXT)
    assert answer == {
        "index": 0,
        "content": "a\n",
        "tokens": [],
        "id_slot": -1,
        "stop": True,
        "model": "llama_cpp",
        "tokens_predicted": 3,
        "tokens_evaluated": 10,
        "generation_settings": {"temperature": 0.5, "n_predict": 9, "seed": 7},
        "prompt": "Once",
        "has_new_line": True,
        "truncated": False,
        "stop_type": "word",
        "stopping_word": "END",
        "tokens_cached": 12,
        "timings": {
            "cache_n": 4,
            "prompt_n": 6,
            "prompt_ms": 500.0,
            "prompt_per_token_ms": 83.333,
            "prompt_per_second": 12.0,
            "predicted_n": 3,
            "predicted_ms": 250.0,
            "predicted_per_token_ms": 83.333,
            "predicted_per_second": 12.0,
        },
    }


def test_what_a_request_asks_to_be_told_alone() -> None:
    about = replace(ABOUT, response_fields=("content", "timings/prompt_n", "generation_settings/temperature", "a/b"))
    wanted = {"content": "a\n", "timings/prompt_n": 6, "generation_settings/temperature": 0.5}
    assert whole(about, TEXT) == [wanted]
    short, last = streamed(TEXT, about)
    assert short["content"] == "a\n"
    assert last == {**wanted, "content": ""}
    assert selected({"a": {"b": None}, "c": 1}, ["a/b", "c/d", "a"]) == {"a/b": None, "a": {"b": None}}


def test_the_short_form_tells_progress_and_timings_where_they_are_wanted() -> None:
    events: list[Event] = [Begun(10), Progress(10, 4, 8, 0.5), Timed(Timings(4, 6, 0.5, 1, 0.1)), *TEXT[1:]]
    progress, short, _ = streamed(events, replace(ABOUT, tells_progress=True))
    assert progress["prompt_progress"] == {"total": 10, "cache": 4, "processed": 8, "time_ms": 500}
    assert short["timings"]["predicted_n"] == 1
    assert "prompt_progress" not in streamed(events)[0]


def test_choices_are_told_apart_by_their_index() -> None:
    events: list[Event] = [
        Begun(1),
        TextDelta(1, "b"),
        TextDelta(0, "a"),
        Finished(0, "stop", None, 1),
        Finished(1, "length", None, 1),
        Done(Usage(1, 0, 2)),
    ]
    about = replace(ABOUT, index=4, max_tokens=1)
    assert [(one["index"], one["content"], one["truncated"]) for one in whole(about, events)] == [
        (4, "a", False),
        (5, "b", False),
    ]
    assert [one["truncated"] for one in whole(replace(about, max_tokens=None), events)] == [False, True]
    assert [told["index"] for told in streamed(events, about)] == [5, 4, 4, 5]


def test_no_infinity_is_told() -> None:
    [told] = probabilities([Token(1, b"\xc3", float("-inf"), (Likely(2, b"b", float("-inf")),))])
    assert isinstance(told, dict)
    assert told == {
        "id": 1,
        "token": "",
        "bytes": [0xC3],
        "logprob": LOWEST,
        "top_logprobs": [{"id": 2, "token": "b", "bytes": [98], "logprob": LOWEST}],
    }
