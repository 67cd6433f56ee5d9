"""However an answer is cut into calls, and wherever it is taken up again, its events are the same. Without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from canister.api.tokens import Token
from canister.chat_format import form_of
from canister.dispatch import Wanted
from canister.dispatch.answer_records import Taken
from canister.dispatch.answers import replay
from canister.dispatch.kept_answers import _text, _tokens
from canister.server.doors.openai.events import Begun
from canister.server.doors.openai.responses.converter import Converter
from canister.server.doors.openai.telling import Spoken, Telling
from canister.server.doors.openai.turn import Turn
from tests.server.doors.openai.responses.sdk import check_events
from tests.server.doors.openai.responses.test_converter import BASE

TOOLS: Any = ({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},)
TEMPLATE = "{% for tool in tools %}<tool_call>{% endfor %}<think></think>"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": [1, 2], "b": "ü"}}\n</tool_call>'

texts = st.lists(
    st.one_of(
        st.sampled_from(
            ["Hello", " world.", "\n", "🚢", "é", "<think>", "Hm, well", "</think>", CALL, "<tool", "STO", "P"]
        ),
        st.text(max_size=5),
    ),
    max_size=8,
).map("".join)


@dataclass
class Kept:
    """answers.Keeper of what is there."""

    tokens: Sequence[Token] = ()
    taken: Taken | None = None

    def keep(self, transaction: object, tokens: Sequence[Token], taken: Taken) -> None:
        raise AssertionError("nothing is made here")


@dataclass
class Told:
    """What is told of an answer whose calls have given these tokens."""

    turn: Turn
    calls: list[list[Token]]

    def events(self, n_calls: int, *, is_over: bool) -> list[dict[str, Any]]:
        tokens = [token for call in self.calls[:n_calls] for token in call]
        taken = Taken(7, 0, n_sampled=len(tokens), n_calls=n_calls, finish="stop" if is_over else None)
        telling = Telling(self.turn, Begun(7, 3, "prompt"), Spoken(form_of(TEMPLATE), starts_in_thought=False))
        telling = Telling.from_json(telling.to_json())  # as it is kept
        converter = Converter(BASE)
        wanted = Wanted((), stops=self.turn.stops, seed=3)
        parts = replay(wanted, Kept(_tokens(_text(tokens)), taken))
        found = converter.feed(telling.begun)
        for part in parts:
            for event in telling.feed(0, part):
                found += converter.feed(event)
        return found


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if begin < end]


def without_usage(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        event if "response" not in event else {**event, "response": {**event["response"], "usage": None}}
        for event in events
    ]


@settings(deadline=None, max_examples=60)
@given(texts, st.lists(st.integers(0, 400), max_size=30), st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_any_cut_into_calls_and_any_place_to_go_on_from(text: str, places: list[int], sizes: list[int]) -> None:
    tokens = [Token(n, data) for n, data in enumerate(cut(text.encode("utf-8", "replace"), places))]
    calls: list[list[Token]] = []
    while tokens:
        size = sizes[len(calls) % len(sizes)]
        calls.append(tokens[:size])
        tokens = tokens[size:]
    turn = Turn(tools=TOOLS, stops=("STOP",))
    told = Told(turn, calls)
    whole = told.events(len(calls), is_over=True)
    check_events(whole)
    one_call = Told(turn, [[token for call in calls for token in call]]).events(1, is_over=True)
    assert without_usage(one_call) == without_usage(whole)
    for n_calls in range(len(calls) + 1):  # killed after each of them: what is told then is how it begins
        begun = told.events(n_calls, is_over=False)
        assert begun == whole[: len(begun)]
