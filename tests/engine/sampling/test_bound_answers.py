"""Answers that are bound: whatever the schema, the seed and the cuts into calls, they are of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from canister.errors import BadRequest
from canister.flags.params import SamplingParams
from tests.engine.driver import GREEDY, Driver
from tests.engine.test_batch_invariance import SAMPLED, some_prompt

N_CTX = 480
N_MOST = 400
# Long texts end: a model of random weights would not close a string by itself.
TERSE = SamplingParams(temperature=2.0, top_k=0, min_p=0.0, top_p=1.0)


@pytest.fixture
def driver(drive: Callable[..., Driver]) -> Driver:
    return drive("q8_0", n_slots=2, n_ctx=N_CTX)


def text_of(driver: Driver, tokens: list[int]) -> str:
    return b"".join(driver.engine.piece(token, False) for token in tokens).decode(errors="replace")


def exact(number: str) -> Decimal | float:
    """940.8 is a multiple of 0.1, if not in binary. An exponent may have any number of digits."""
    try:
        return Decimal(number)
    except InvalidOperation:
        return float(number)


NAMES = st.sampled_from(["a", "b", "long name", "é", 'q"'])
SMALL = st.integers(0, 4)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.floats(-9, 9).map(lambda x: round(x, 2)), NAMES)


def some(**words: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these words."""
    return st.fixed_dictionaries({}, optional=words)


@st.composite
def typed(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "number", "string", "array", "object", "boolean", "null"]))
    number = st.integers(-20, 20) | st.floats(-20, 20).map(lambda x: round(x, 1))
    words = {
        "integer": some(minimum=number, maximum=number, exclusiveMinimum=number, multipleOf=st.integers(1, 12)),
        "number": some(minimum=number, exclusiveMaximum=number, multipleOf=st.sampled_from([0.5, 0.1, 3])),
        "string": some(
            minLength=SMALL,
            maxLength=st.integers(2, 9),
            pattern=st.sampled_from(["^a+$", "b", "^[0-9]{2}", r"\d\.\d$", "^x|y$", "(ab|ba)*$", r"^\w\s\S$"]),
            format=st.sampled_from(["date", "uuid", "ipv4", "email", "time", "made-up"]),
        ),
        "array": some(
            items=inner,
            prefixItems=st.lists(inner, max_size=2),
            minItems=SMALL,
            maxItems=SMALL,
            uniqueItems=st.booleans(),
            contains=inner,
        ),
        "object": some(
            properties=st.dictionaries(NAMES, inner, max_size=3),
            required=st.lists(NAMES, max_size=2, unique=True),
            additionalProperties=st.booleans() | inner,
            patternProperties=st.dictionaries(st.sampled_from(["^a", "b$", "[0-9]"]), inner, max_size=1),
            minProperties=SMALL,
            maxProperties=SMALL,
        ),
        "boolean": some(),
        "null": some(),
    }[kind]
    types = draw(st.sampled_from([kind, [kind], [kind, "null"]]))
    return {"type": types, **draw(words)}


def schemas() -> st.SearchStrategy[Any]:
    leaf = st.one_of(
        st.fixed_dictionaries({"const": SCALARS}),
        st.fixed_dictionaries({"enum": st.lists(SCALARS | st.lists(SCALARS, max_size=2), min_size=1, max_size=3)}),
        st.just({"$ref": "#/$defs/one"}),
        st.just({"not": {}}),
        st.just(True),
        st.just(False),
    )
    return st.recursive(
        leaf | typed(leaf),
        lambda inner: st.one_of(
            typed(inner),
            some(
                anyOf=st.lists(inner, min_size=1, max_size=3), type=st.just("object"), properties=st.just({"a": True})
            ),
            some(oneOf=st.lists(inner, min_size=1, max_size=2), minimum=st.integers(0, 5)),
            some(allOf=st.lists(inner, min_size=1, max_size=2), maxLength=st.integers(1, 6)),
            st.fixed_dictionaries({"not": inner}),
        ),
        max_leaves=6,
    )


@given(schema=schemas(), one=schemas(), seed=st.integers(0, 2**32 - 2), cuts=st.lists(st.integers(1, 40), max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_answer_is_valid_or_the_schema_was_refused(
    driver: Driver, schema: Any, one: Any, seed: int, cuts: list[int]
) -> None:
    if isinstance(schema, dict):
        schema = {**schema, "$defs": {"one": one}}
    sampling = replace(TERSE, json_schema=json.dumps(schema))
    prompt = some_prompt(seed % 5)
    try:
        whole = driver.run(driver.chat(sampling=sampling, seed=seed).call(prompt, n_predict=N_MOST))
    except BadRequest as refusal:
        refused = str(refusal)
    else:
        refused = ""
    event(re.sub(r"[^a-z ].*", "", refused.partition(": ")[2]) if refused else "bound")
    if refused:
        assert "JSON schema cannot be used" in refused
        return
    chat = driver.chat("cut", sampling=sampling, seed=seed)
    n = whole.n_generated
    assert driver.run(chat.answer(prompt, n, cuts)) == whole.sampled[:n]
    driver.engine.forget("cut")
    if whole.eog:
        value = json.loads(text_of(driver, whole.sampled), parse_float=exact)
        jsonschema.Draft202012Validator(json.loads(json.dumps(schema), parse_float=exact)).validate(value)


LARK = """start: (call | word)+
call: "<call>" %json {"type": "integer", "minimum": 3, "maximum": 700} "</call>"
word: /[a-f]{1,4}/ " "
"""


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, TERSE], ids=["greedy", "sampled", "hot"])
@pytest.mark.parametrize("what", [{"lark": LARK}, {"grammar": 'root ::= ([a-f]+ " " | "<" [0-9]+ ">")*'}], ids=str)
def test_grammars_through_cut_calls(driver: Driver, params: SamplingParams, what: dict[str, str]) -> None:
    """The grammar knows what was generated in the calls before, and nothing of the prompt."""
    sampling = replace(params, **what)
    whole = driver.run(driver.chat(sampling=sampling).answer(some_prompt(4), 30))
    assert driver.run(driver.chat("k", sampling=sampling).answer(some_prompt(4), 30, [5, 27, 1, 2, 1, 3])) == whole


def test_an_integer_from_one_to_nine(driver: Driver) -> None:
    sampling = replace(TERSE, json_schema='{"type":"integer","minimum":1,"maximum":9}')
    for seed in range(20):
        result = driver.run(driver.chat(sampling=sampling, seed=seed).call(some_prompt(1), n_predict=5))
        assert result.eog
        assert text_of(driver, result.sampled) in list("123456789")


def test_a_grammar_that_leaves_only_the_end(driver: Driver) -> None:
    sampling = replace(GREEDY, lark='start: "done"', ignore_eos=True)
    with pytest.raises(BadRequest, match="No token may follow"):
        driver.run(driver.chat(sampling=sampling).call(some_prompt(1), n_predict=9))
    ended = driver.run(driver.chat(sampling=replace(sampling, ignore_eos=False)).call(some_prompt(1), n_predict=9))
    assert (text_of(driver, ended.sampled), ended.eog) == ("done", True)
