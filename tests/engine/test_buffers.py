"""Memory that is used again: never while somebody still looks at it, and not without bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.buffers import MOST_SPARE_BYTES, MOST_SPARES, Buffers, resident_bytes

MB = 1 << 20


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5 * MB), st.booleans()), max_size=20))
def test_nobody_gets_memory_that_is_still_seen(steps: list[tuple[int, int, bool]]) -> None:
    buffers = Buffers()
    held: dict[int, tuple[np.ndarray, int]] = {}
    for number, (place, n, as_view) in enumerate(steps):
        held.pop(place, None)
        array = buffers.take(n)
        assert len(array) == n
        array[:] = number
        held[place] = (array[: n // 2] if as_view else array), number
        del array
        for seen, expected in held.values():
            assert (seen == expected).all()


def test_memory_comes_back_when_the_last_view_is_gone() -> None:
    buffers = Buffers()
    array = buffers.take(4 * MB)
    address, view = array.ctypes.data, array[5:10].reshape(1, 5)
    del array
    assert buffers.spare_bytes == 0
    del view
    assert buffers.spare_bytes >= 4 * MB
    again = buffers.take(4 * MB + 5)  # a chat that has grown a little
    assert (again.ctypes.data, buffers.spare_bytes) == (address, 0)
    assert resident_bytes(again) >= resident_bytes(again[:1]) > 4 * MB


def test_few_spares_of_a_bounded_size() -> None:
    buffers = Buffers()
    arrays = [buffers.take(2 * MB) for _ in range(2 * MOST_SPARES)]
    del arrays
    assert 0 < buffers.spare_bytes <= MOST_SPARES * 3 * MB
    small = buffers.take(2 * MB)
    del small
    before = buffers.spare_bytes
    huge = buffers.take(MOST_SPARE_BYTES)
    del huge
    assert buffers.spare_bytes == before  # it is too large to be kept
