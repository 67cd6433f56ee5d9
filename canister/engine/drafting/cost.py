"""What drafts cost and what they are expected to give: how many rows promise most."""

from __future__ import annotations

from collections.abc import Callable

MOST_ROWS = 16  # of a draft and the token before it
WORTH = 1.05  # times as fast at least, by what is expected
MOST_UNUSED = 3  # rows of a draft that cannot count; a stream has cells for them
_ROWS = (2, 4, 8, 12, MOST_ROWS)
_WEIGHT = 0.3  # of a new measurement against all before
_OUTLIER = 4.0  # times what was measured; a longer one is a hiccup of the machine


class DraftCost:
    """Seconds of a decode of a draft by its rows, from those that were measured."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def measured(self, n_rows: int, seconds: float) -> None:
        before = self._seconds.get(n_rows, seconds)
        self._seconds[n_rows] = before + _WEIGHT * (min(seconds, _OUTLIER * before) - before)

    def seconds(self, n_rows: int, seconds_of_one: float) -> float:
        """Of a number that was not measured: by the nearest one that was, along the usual line."""
        known = self._seconds.get(n_rows)
        if known is not None:
            return known
        more = _usual(n_rows) - 1
        if self._seconds:
            nearest = min(self._seconds, key=lambda n: abs(n - n_rows))
            more *= max(0.0, self._seconds[nearest] / seconds_of_one - 1) / (_usual(nearest) - 1)
        return seconds_of_one * (1 + more)


def _usual(n_rows: int) -> float:
    """What a decode of a draft costs on common processors, in decodes of one token."""
    return 1.2 + 0.35 * n_rows


def best_rows(chance: float, n_useful: int, most: int, seconds: Callable[[int], float], seconds_of_one: float) -> int:
    """How many rows, at most `most`, are expected to be fastest; 1 where no number is worth it. n_useful: rows that may
    count. There may be a few more, since kernels compute some numbers of rows faster than smaller ones.
    """
    best, best_gain = 1, WORTH
    for n in sorted({*(n for n in _ROWS if n < most), most}):
        if 1 < n <= n_useful + MOST_UNUSED:
            gain = n_expected(chance, min(n, n_useful)) * seconds_of_one / max(seconds(n), 1e-9)
            if gain > best_gain:
                best, best_gain = n, gain
    return best


def n_expected(chance: float, n_rows: int) -> float:
    """Tokens that a decode of so many rows is expected to give."""
    return float(n_rows) if chance >= 1 else (1 - chance**n_rows) / (1 - chance)
