"""What a herder asks for an answer, and what clients reckon it will ask."""

from __future__ import annotations

import re

PROMPT_FEE = 1
TOKEN_FEE = 1
MOST_TOKENS = 2048
MOST_PUBLISHED = 1000.0
"""Of multipliers: what somebody overpays once does not become everybody's price."""
_WORD = re.compile(rb"[A-Za-z0-9]+")


def words(prompt: bytes) -> int:
    """Runs of ASCII letters and digits."""
    return len(_WORD.findall(prompt))


def needed(prompt: bytes, n_tokens: int, prompt_fee: int = PROMPT_FEE, token_fee: int = TOKEN_FEE) -> int:
    return prompt_fee + (words(prompt) + n_tokens) * token_fee


def published(multiplier: float) -> float:
    return min(multiplier, MOST_PUBLISHED)
