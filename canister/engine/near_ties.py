"""Would a token be drawn if the logits were a little different? Looks for such logits, and says yes only with them.

A row that is decoded together with others has logits that differ from those of a lone row by a little, and the random
number of a draw is known. So a token is a near tie if logits within that little draw it. Three ways of moving them are
tried: the token's own logit, which also changes its place among the others; those of all tokens that are likelier; and
those of all tokens with smaller numbers. The last two move the token's place on the random number's line, whichever
order the samplers leave the tokens in. Logits that draw it and are not found are no harm: whoever asks then decodes the
token as it was decoded before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from canister.engine.llama import Logits

STEPS = (0.25, -0.25, 0.5, -0.5, 1.0, -1.0)  # of the token's own way, the likeliest first
HALVINGS = 12  # between two steps on both sides of the token

Draw = Callable[[Logits], int]
"""Logits → the token that is drawn of them, with the same random number each time."""

Before = Callable[[int, Logits], bool]
"""Does a token stand before the said one, with these logits?"""


def is_near_tie(draw: Draw, logits: Logits, said: int, bound: float) -> bool:
    """Are there logits, none further than `bound` from these, that draw the token?

    A logit moves by twice the bound while the others stay: that is the same as moving both by the bound. Many that move
    together move by less, as differences that do not know of each other do in sum.
    """
    numbers = np.arange(len(logits))

    def by_logit(token: int, moved: Logits) -> bool:
        return bool(moved[token] >= moved[said])

    def by_number(token: int, moved: Logits) -> bool:
        return token < said

    if _Way(draw, logits, said, numbers == said, 2 * bound, by_logit).reaches(STEPS):
        return True
    drawn = draw(logits)
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    likelier = (logits >= logits[said]) & (numbers != said)
    for moved, is_before in ((likelier, by_logit), (numbers < said, by_number)):
        share = weights * moved
        together = float(np.sqrt((share**2).sum())) / (float(share.sum()) or 1.0)
        # Where a token before it is drawn, those before it must weigh less.
        step = -1.0 if is_before(drawn, logits) else 1.0
        if _Way(draw, logits, said, moved, 2 * bound * together, is_before).reaches((0.0, step)):
            return True
    return False


class _Way:
    """Logits that move together, by up to `most`. is_before: in the order in which the tokens stand on the line."""

    def __init__(
        self, draw: Draw, logits: Logits, said: int, moved: NDArray[np.bool_], most: float, is_before: Before
    ) -> None:
        self._draw, self._logits, self._said, self._is_before = draw, logits, said, is_before
        self._whole = np.float32(most) * moved.astype(np.float32)

    def at(self, step: float) -> tuple[int, bool]:
        """The token that is drawn, and whether it stands before the said one."""
        changed = (self._logits + np.float32(step) * self._whole).astype(np.float32)
        token = self._draw(changed)
        return token, self._is_before(token, changed)

    def reaches(self, steps: Sequence[float]) -> bool:
        """Is the token drawn at one of the steps, or between two of them?"""
        sides: dict[float, bool] = {}
        for step in steps:
            token, sides[step] = self.at(step)
            if token == self._said:
                return True
        pairs = pairwise(sorted(sides))
        return any(sides[low] != sides[high] and self._is_between(low, high, sides[low]) for low, high in pairs)

    def _is_between(self, low: float, high: float, side_of_low: bool) -> bool:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            token, side = self.at(middle)
            if token == self._said:
                return True
            low, high = (middle, high) if side == side_of_low else (low, middle)
        return False
