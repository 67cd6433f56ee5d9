"""Pages put together are the list, whatever comes and goes meanwhile; what does not fit is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.api.rest_records import MOST_OF_PAGE
from canister.errors import BadRequest
from canister.handlers.pages import Place, page

places = st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(-9, 9)), unique=True).map(sorted)


@given(places, st.integers(1, 9), st.data())
def test_pages_together_are_the_list(items: list[Place], limit: int, data: st.DataObject) -> None:
    found: list[Place] = []
    after: str | None = None
    stay, left = [*items], [*items]
    while True:
        got, following = page(left, lambda item: item, str(limit), after, 2)
        assert len(got) <= limit
        found += got
        after = following["next"]
        if after is None:
            break
        if gone := data.draw(st.sets(st.sampled_from(items), max_size=2)):
            left = [item for item in left if item not in gone]
            stay = [item for item in stay if item not in gone or item in found]
    assert found == stay
    assert page(items, lambda item: item, None, None) == (items, {})


@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "1.5", str(MOST_OF_PAGE + 1), "9" * 30, "\u0663"])
def test_what_is_no_limit(limit: str) -> None:
    with pytest.raises(BadRequest, match=r"limit: .* from 1 to"):
        page([(1,)], lambda item: item, limit, None)


@pytest.mark.parametrize("after", ["", "x", "1.", "--1", "1.2", "9" * 30, str(2**63), "\u0663"])
def test_what_is_no_place(after: str) -> None:
    with pytest.raises(BadRequest, match=r"after: .*`next`"):
        page([(1,)], lambda item: item, "5", after)
