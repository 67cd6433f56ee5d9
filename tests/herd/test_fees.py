"""The vectors of the AO herd's fees, and amounts as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.errors import BadRequest
from canister.herd import fees
from canister.herd.fees import Prices

MEANING = "What is the meaning of life?"


@pytest.mark.parametrize(
    ("prompt", "n"),
    [
        ("don't stop", 3),
        ("héllo wörld", 4),
        ("<|system|>\nTell a joke<|end|>", 5),
        (MEANING, 6),
        ("", 0),
        ("ß ٣ ²", 0),
    ],
)
def test_words(prompt: str, n: int) -> None:
    assert fees.words(prompt) == n


def test_what_is_needed() -> None:
    assert fees.needed(MEANING, 5) == 12
    assert fees.needed(MEANING, 20) == 27
    assert fees.needed(MEANING, 5, Prices(100, 7)) == 177


@pytest.mark.parametrize("tokens", [0, -1, 2049])
def test_what_could_cost_nothing_is_refused(tokens: int) -> None:
    """An empty prompt and -1 tokens needed 0 in the original, and the multiplier that it told was infinite."""
    with pytest.raises(BadRequest, match=f"not {tokens}"):
        fees.needed("", tokens)


def test_the_multiplier() -> None:
    assert [fees.multiplier(quantity, 12) for quantity in (12, 24, 18)] == [1.0, 2.0, 1.5]
    assert fees.multiplier(10**77 + 10**76, 10**77) == 1.1
    with pytest.raises(BadRequest, match="needs 12 units, and 11 were paid"):
        fees.multiplier(11, 12)
    with pytest.raises(BadRequest, match="see to the prices"):
        fees.multiplier(1, 0)
    with pytest.raises(BadRequest, match="more money than there is"):
        fees.multiplier(10**400, 1)


@pytest.mark.parametrize(("least", "fee"), [(14, 14), (94, 94), (294, 295)])
def test_a_quote_where_others_wait(least: int, fee: int) -> None:
    assert fees.quote(least) == least
    assert fees.quote(least, queue_length=1) == fee


def test_a_quote_by_the_last_multiplier_or_the_clients_own() -> None:
    assert fees.quote(14, 1.1) == fees.quote(14, by=1.1) == 15
    assert fees.quote(100, 1.1) == fees.quote(100, by=1.1) == 110
    assert fees.quote(14, 5.0, 9, fee=20) == 20
    assert fees.quote(14, 5.0, 9, fee=20, by=Fraction(3, 2)) == 30


def test_the_multiplier_that_others_are_told_is_bounded() -> None:
    assert [fees.published(value) for value in (0.0, 1.5, 1e300, float("inf"))] == [1.0, 1.5, 1000.0, 1000.0]


@pytest.mark.parametrize(
    ("text", "units"),
    [("1", 10**12), ("1.5", 15 * 10**11), ("0.000000000001", 1), (" 7. ", 7 * 10**12), ("0", 0)],
)
def test_amounts_are_read(text: str, units: int) -> None:
    assert fees.parse_amount(text) == units


@pytest.mark.parametrize("text", ["", ".5", "-1", "1,5", "1e3", "0.0000000000001", "1_0", "٣", "9" * 61])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="an amount is a number"):
        fees.parse_amount(text)


@given(st.integers(0, 10**60))
def test_an_amount_is_read_as_it_is_written(units: int) -> None:
    assert fees.parse_amount(fees.format_amount(units)) == units
    assert fees.format_amount(-units - 1) == "-" + fees.format_amount(units + 1)
