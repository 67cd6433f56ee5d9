"""The bytes of arguments and answers: the same for equal contents, however often and in whichever record they come."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.ic import cbor
from canister.ic.receipts import values
from canister.ic.receipts.values import MOST_KEPT, encoded


@dataclass(frozen=True)
class Settings:
    rate: Any = 0
    names: tuple[str, ...] = ()
    absent: int | None = None


@dataclass(frozen=True)
class Loose:
    """Frozen, but what it has may change."""

    numbers: list[int] = field(default_factory=list)


@dataclass
class Argument:
    zeta: int
    settings: Any
    alpha: str = ""


def by_hand(value: Any) -> Any:
    """A value as CBOR takes it."""
    if isinstance(value, Settings | Argument | Loose):
        found = {name: item for name, item in vars(value).items() if item is not None}
        return {name: by_hand(found[name]) for name in sorted(found, key=cbor.encode)}
    if isinstance(value, float):
        return repr(value)
    return [by_hand(item) for item in value] if isinstance(value, list | tuple) else value


RATES = st.one_of(st.integers(0, 3), st.booleans(), st.floats(0, 3, allow_nan=False))
NAMES = st.lists(st.text(max_size=3), max_size=3).map(tuple)
SETTINGS = st.builds(Settings, RATES, NAMES, st.none() | st.integers(-300, 300))


@given(st.lists(SETTINGS, min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=12))
def test_a_record_that_comes_again_has_the_same_bytes(several: list[Settings], order: list[int]) -> None:
    """Also beside equal ones, of 1, 1.0 and True, that have others."""
    for at in order:
        settings = several[at % len(several)]
        argument = Argument(at, settings, "a")
        assert encoded(argument) == cbor.encode(by_hand(argument))
        assert encoded(settings) == cbor.encode(by_hand(settings))


def test_equal_numbers_of_other_kinds_are_told_apart() -> None:
    found = {encoded(Argument(1, Settings(rate))) for rate in (1, 1.0, True)}
    assert len(found) == 3


def test_what_may_change_is_encoded_each_time() -> None:
    loose = Loose([1])
    before = encoded(Argument(1, loose))
    loose.numbers.append(2)
    assert encoded(Argument(1, loose)) == cbor.encode(by_hand(Argument(1, loose))) != before


def test_an_id_that_is_used_again_stands_for_the_new_value() -> None:
    for n in range(3 * MOST_KEPT):
        settings = Settings(n)
        assert encoded(Argument(1, settings)) == cbor.encode(by_hand(Argument(1, settings)))
        del settings
        gc.collect(0)
    assert len(values._kept) <= MOST_KEPT


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no hash"):
        encoded(Argument(1, replace(Settings(), rate=object())))
