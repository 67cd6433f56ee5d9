"""Stop strings: found wherever they are cut, the one that ends first; what may become one is held back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.stops import MAX_STOP_BYTES, MAX_STOPS, Stops
from canister.errors import BadRequest

TEXT = st.text(alphabet="ab€", max_size=12)


def run(stops: list[str], pieces: list[bytes]) -> tuple[bytes, str | None]:
    found = Stops(stops)
    shown = b"".join(map(found.feed, pieces))
    return shown + found.end(), found.found


def ended_first(stops: list[str], text: bytes) -> tuple[bytes, str | None]:
    """By the definition, byte after byte."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop.encode())]
        if ending:
            longest = max(ending, key=lambda stop: len(stop.encode()))
            return text[: end - len(longest.encode())], longest
    return text, None


@given(st.lists(TEXT, max_size=5), TEXT, st.lists(st.integers(0, 40), max_size=6))
def test_however_it_is_cut_the_stop_that_ends_first_counts(stops: list[str], text: str, cuts: list[int]) -> None:
    data = text.encode()
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(borders)]
    assert run(stops, pieces) == ended_first(stops, data)


def test_nothing_waits_where_nothing_can_stop() -> None:
    assert Stops([]).feed(b"abc") == b"abc"
    assert Stops(["", "x"]).feed(b"abc") == b"abc"


def test_too_much_is_refused() -> None:
    with pytest.raises(BadRequest, match="100000 stop strings are too many"):
        Stops([str(n) for n in range(100_000)])
    assert Stops([str(n) for n in range(MAX_STOPS)]).longest == 4
    with pytest.raises(BadRequest, match="4097 bytes"):
        Stops(["x" * (MAX_STOP_BYTES + 1)])
