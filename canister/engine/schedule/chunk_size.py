"""How large a prompt chunk may be so that generating calls wait no longer than the set pause.

A pause lies between two tokens of a generating call: a chunk, and a step of rows. What they take is learnt from earlier
ones: rows by their number, chunks as

    seconds = a + b · n + c · n · (position + n / 2)

that is, a pass over the weights, work per token, and attention to what is before it. Nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MIN_CHUNK = 2
HEADROOM = 0.9  # of the pause is planned, since no two steps take the same time
MIN_CHUNK_SHARE = 0.25
"""Prompts have to go on somehow: of the time of rows that alone take longer than the pause, and of the time that a
chunk would have if no chat were between two calls."""
_WEIGHT = 0.3  # of a new measurement against all before
_OUTLIER = 4.0  # times what was expected; a longer measurement is a hiccup of the machine and counts as so much
_NEAR = 0.02  # an estimate this close to the measurement is not corrected


class RowCost:
    """Seconds of a step of n rows: the measured mean, or an estimate from the nearest measured number."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def measured(self, n: int, seconds: float) -> None:
        before = self._seconds.get(n, seconds)
        self._seconds[n] = before + _WEIGHT * (min(seconds, _OUTLIER * before) - before)

    def measured_seconds(self, n: int) -> float:
        """0 if there was no such step yet."""
        return self._seconds.get(n, 0.0)

    def seconds(self, n: int) -> float:
        """An upper bound: more rows take longer, but each row less."""
        if n in self._seconds or not self._seconds:
            return self._seconds.get(n, 0.0)
        larger = [m for m in self._seconds if m > n]
        smaller = [m for m in self._seconds if m < n]
        at_least = max((self._seconds[m] for m in smaller), default=0.0)
        if larger:
            return max(at_least, self._seconds[min(larger)])
        return max(at_least, self._seconds[max(smaller)] * n / max(smaller))


@dataclass(slots=True)
class _Class:
    """Mean of the measurements of chunks that are alike: (1, n, n · (position + n / 2)) and seconds."""

    features: tuple[float, float, float]
    seconds: float


class ChunkCost:
    """Seconds of a prompt chunk, as a function of its size and start.

    Each class of size and position, by powers of two, keeps one mean. So measurements of long or late chunks are not
    forgotten while others are decoded.
    """

    def __init__(self) -> None:
        self._classes: dict[tuple[int, int], _Class] = {}
        self._costs = 0.0, 0.0, 0.0
        self.largest = 0  # chunk that was measured

    def measured(self, n: int, position: int, seconds: float) -> None:
        features = _features(n, position)
        if self.largest:
            seconds = min(seconds, _OUTLIER * self.seconds(n, position))
        known = self._classes.setdefault((n.bit_length(), position.bit_length()), _Class(features, seconds))
        mixed = [old + _WEIGHT * (new - old) for old, new in zip(known.features, features, strict=True)]
        known.features = mixed[0], mixed[1], mixed[2]
        known.seconds += _WEIGHT * (seconds - known.seconds)
        self.largest = max(self.largest, n)
        if abs(self.seconds(n, position) - seconds) > _NEAR * seconds:
            self._costs = _fitted(self._classes.values())

    def seconds(self, n: int, position: int) -> float:
        return sum(cost * x for cost, x in zip(self._costs, _features(n, position), strict=True))

    def fitting(self, seconds: float, position: int, n_max: int) -> int:
        """The largest chunk that takes no longer; MIN_CHUNK if none does. It grows by doubling while nothing is
        known.
        """
        low, high = MIN_CHUNK, max(MIN_CHUNK, min(n_max, 2 * self.largest))
        while low < high:
            middle = (low + high + 1) // 2
            if self.seconds(middle, position) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low


class ChunkSizer:
    """The measured costs of a model, and the allowed pause."""

    def __init__(self, max_pause_seconds: float) -> None:
        self.max_pause_seconds = max_pause_seconds
        self.rows = RowCost()
        self.chunks = ChunkCost()

    @property
    def prefill_tps(self) -> float:
        """Tokens a second in the largest chunk so far, at the beginning of a prompt; 0: nothing was measured."""
        seconds = self.chunks.seconds(self.chunks.largest, 0)
        return self.chunks.largest / seconds if seconds > 0 else 0.0

    @property
    def decode_tps(self) -> float:
        """Tokens a second of an answer that is decoded alone; 0: nothing was measured."""
        seconds = self.rows.measured_seconds(1)
        return 1 / seconds if seconds > 0 else 0.0

    def chunk(self, n_rows: int, n_next: int, n_steps: int, position: int, n_max: int, waited: float = 0.0) -> int:
        """Tokens of a chunk after n_rows rows and before at most n_next, when each call gets a row in one of n_steps
        steps.

        waited: seconds since a chat had its last token that may have its next one at the end of the step.
        """
        pause, rows = self.max_pause_seconds / n_steps, self.rows.measured_seconds(n_rows)
        left = MIN_CHUNK_SHARE * rows if rows > pause else HEADROOM * pause - self.rows.seconds(n_next)
        if waited:
            left = min(left, max(HEADROOM * self.max_pause_seconds - waited - rows, MIN_CHUNK_SHARE * left))
        return self.chunks.fitting(left, position, n_max)


def _features(n: int, position: int) -> tuple[float, float, float]:
    return 1.0, float(n), n * (position + n / 2)


def _fitted(classes: Iterable[_Class]) -> tuple[float, float, float]:
    """Costs, none negative, of the smallest relative error; what cannot be told apart is shared out evenly."""
    seen = [each for each in classes if each.seconds > 0]
    costs = np.zeros(3)
    if not seen:
        return 0.0, 0.0, 0.0
    rows = np.array([each.features for each in seen]) / np.array([[each.seconds] for each in seen])
    scale = np.abs(rows).max(axis=0)
    scale[scale == 0] = 1.0
    used = [0, 1, 2]
    while used:
        found = np.linalg.lstsq(rows[:, used] / scale[used], np.ones(len(seen)), rcond=1e-9)[0]
        if found.min() >= 0:
            costs[used] = found / scale[used]
            break
        del used[int(found.argmin())]
    return float(costs[0]), float(costs[1]), float(costs[2])
