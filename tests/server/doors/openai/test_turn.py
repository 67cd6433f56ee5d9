"""A turn survives as JSON, as durable chains keep it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from canister.flags.params import SamplingParams
from canister.server.doors.openai.turn import Turn

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=4)
SAMPLING = st.builds(
    SamplingParams,
    temperature=st.floats(0, 2),
    logit_bias=st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(-100, 100) | st.just(-math.inf))).map(tuple),
    dry_sequence_breakers=st.lists(TEXTS).map(tuple),
    grammar=TEXTS,
)
TURNS = st.builds(
    Turn,
    messages=st.lists(OBJECTS, max_size=3).map(tuple),
    prompt=st.none() | TEXTS | st.lists(st.integers(0, 10**6) | TEXTS, max_size=5).map(tuple),
    tools=st.lists(OBJECTS, max_size=2).map(tuple),
    sampling=SAMPLING,
    seed=st.none() | st.integers(0, 2**32 - 1),
    max_tokens=st.none() | st.integers(0, 10**6),
    stops=st.lists(TEXTS, max_size=3).map(tuple),
    n_logprobs=st.none() | st.integers(0, 20),
    output_schema=st.none() | st.booleans() | OBJECTS,
    template_options=OBJECTS,
    thinks=st.none() | st.booleans(),
    continues=st.booleans(),
)


@given(TURNS)
def test_a_turn_comes_back_from_its_json(turn: Turn) -> None:
    assert Turn.model_validate_json(turn.model_dump_json()) == turn


def test_an_unknown_field_is_of_another_version_and_is_not_dropped() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Turn.model_validate_json('{"messages": [], "wishes": 1}')
