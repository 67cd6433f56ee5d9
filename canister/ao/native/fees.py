"""What a herder asks for an answer, and what clients reckon it will ask."""

from __future__ import annotations

import math
import re
from fractions import Fraction

PROMPT_FEE = 1
TOKEN_FEE = 1
MOST_TOKENS = 2048
MOST_PUBLISHED = 1000.0
"""Of multipliers: what somebody overpays once does not become everybody's price."""
_WORD = re.compile(rb"[A-Za-z0-9]+")
_BUMP = Fraction(1005, 1000)


def words(prompt: bytes) -> int:
    """Runs of ASCII letters and digits."""
    return len(_WORD.findall(prompt))


def needed(prompt: bytes, n_tokens: int, prompt_fee: int = PROMPT_FEE, token_fee: int = TOKEN_FEE) -> int:
    return prompt_fee + (words(prompt) + n_tokens) * token_fee


def client_fee(prompt: bytes, n_tokens: int, *, last: float = 1.0, n_queued: int = 0, times: float = 1.0) -> int:
    """With what was paid last, and a little more where others wait. times: what the client wants to pay above that."""
    fee = needed(prompt, n_tokens) * Fraction(str(last))
    if n_queued > 0:
        fee *= _BUMP
    return math.floor(fee * Fraction(str(times)))


def published(multiplier: float) -> float:
    return min(multiplier, MOST_PUBLISHED)
