"""JSON from strangers: what is refused, and what is counted as a value."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from canister.api import strict_json
from canister.api.strict_json import MAX_VALUES, NotJson, check, read

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)


@given(ANY_JSON)
def test_what_is_json_is_read(value: object) -> None:
    assert read(json.dumps(value)) == value
    assert read(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[NaN]",
        '{"a":Infinity}',
        "-Infinity",
        "1e999",
        '{"a":[-1e999]}',
        "01",
        "'a'",
        "1 2",
        '"\\ud800"',
    ],
)
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(NotJson, match="Invalid JSON"):
        read(text)


@pytest.mark.parametrize("text", ["\ud800", "[" * 500 + "]" * 500, "1" * 5000])
def test_what_python_cannot_hold_is_no_json_either(text: str) -> None:
    with pytest.raises(NotJson):
        read(text)


@pytest.mark.parametrize("element", ["{}", "[]", '""', "1", '"a,[{"', "[[[1]]]"])
def test_too_many_values(element: str) -> None:
    with pytest.raises(NotJson, match=f"more than {MAX_VALUES} values"):
        read("[" + ",".join([element] * MAX_VALUES) + "]")


@pytest.mark.parametrize("text", [",[{" * MAX_VALUES, ',\\"[' * MAX_VALUES, "\\\\" * MAX_VALUES + ",[{" * MAX_VALUES])
def test_commas_and_brackets_in_texts_are_no_values(text: str) -> None:
    body = json.dumps([text, {text: text}])
    assert read(body) == [text, {text: text}]


def test_as_many_as_are_taken() -> None:
    most = "[" + ",".join(["1"] * (MAX_VALUES - 1)) + "]"
    assert len(read(most)) == MAX_VALUES - 1
    with pytest.raises(NotJson):
        read(most.replace("]", ",1]"))


def test_large_numbers_are_not_taken_for_infinite() -> None:
    assert read("1.7e308") == 1.7e308
    assert math.isclose(read("1" + "0" * 300 + ".0"), 1e300)
    assert strict_json.read(str(2**80)) == 2**80


# -- checked alone, before pydantic reads it

ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def taken(text: str) -> bool:
    """Whether a text is an argument that may be anything, checked and then read once."""
    try:
        check(text)
        ANYTHING.validate_json(text)
    except ValueError:
        return False
    return True


def is_read(text: str) -> bool:
    try:
        read(text)
    except NotJson:
        return False
    return True


NUMBERS = st.from_regex(r"-?[0-9]{1,320}(\.[0-9]{1,9})?([eE][-+]?[0-9]{1,4})?", fullmatch=True)


@given(st.lists(NUMBERS | st.sampled_from(["NaN", "-Infinity", '"NaN 1e999"', "{}", "[", "tru", "1e308", "9e307"])))
def test_what_is_checked_and_read_once_is_what_is_read_alone(parts: list[str]) -> None:
    text = "[" + ",".join(parts) + "]"
    assert taken(text) == is_read(text)


def test_too_many_values_are_found_without_reading() -> None:
    with pytest.raises(NotJson, match=f"more than {MAX_VALUES} values"):
        check("[" + ",".join(["1"] * MAX_VALUES) + "]")
    check(json.dumps([",[{" * MAX_VALUES]))
