"""Which streams get a dummy row in a decode of rows, where that gives a chat the same logits or costs less."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from canister.engine.traits import Traits

DUMMY_CELLS = 4
MAX_GAP = 2  # streams, whose dummy rows cost less than another pass over the weights
CELLS_AT_ONCE = 256  # llama.cpp attends to a multiple of so many


def dummies(traits: Traits, streams: list[int], lengths: Sequence[int]) -> list[int]:
    """The streams beside these, in order, that get a dummy row. lengths: positions of all streams."""
    if traits.needs_pairs:
        return _lonely_neighbours(streams, len(lengths))
    return _gaps(streams, lengths) if traits.fills_gaps else []


def _gaps(streams: list[int], lengths: Sequence[int]) -> list[int]:
    """The streams of small gaps. Each gap would be one more pass over the weights.

    All streams of a pass attend to as many cells as the longest has, so none is filled with a longer stream.
    """
    n_cells = -(-(max(lengths[stream] for stream in streams) + 1) // CELLS_AT_ONCE) * CELLS_AT_ONCE
    gaps = [range(a + 1, b) for a, b in pairwise(streams) if 1 < b - a <= 1 + MAX_GAP]
    return [stream for gap in gaps for stream in gap if all(lengths[each] < n_cells for each in gap)]


def _lonely_neighbours(streams: list[int], n_streams: int) -> list[int]:
    """A neighbouring stream for every stream without one in the decode."""
    busy = set(streams)
    dummies: list[int] = []
    for stream in streams:
        if stream - 1 not in busy and stream + 1 not in busy:
            neighbour = stream + 1 if stream + 1 < n_streams else stream - 1
            dummies.append(neighbour)
            busy.add(neighbour)
    return dummies
