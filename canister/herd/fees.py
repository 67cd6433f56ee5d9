"""What a job of the paid queue costs, and what an amount of money looks like: exact arithmetic, nothing else.

needed     = prompt fee + (words + tokens) * token fee         1 and 1 by default
multiplier = quantity / needed, accepted if it is at least 1
fee        = needed * last multiplier, * 1.005 where others wait; or a fee or multiplier of the client's; rounded down
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from canister.errors import BadRequest

DECIMALS = 12
UNIT: int = 10**DECIMALS  # smallest units of one token of money
MAX_TOKENS = 2048
MAX_PUBLISHED_MULTIPLIER = 1000.0  # clients multiply by it, so a single foolish payer must not price all others out
_BUMP = Fraction(1005, 1000)

_WORD = re.compile("[A-Za-z0-9]+")
_AMOUNT = re.compile(r"([0-9]{1,60})(?:\.([0-9]{0,12}))?")


@dataclass(frozen=True, slots=True)
class Prices:
    """In smallest units: of a job as such, and of each word of its prompt and each token of its answer."""

    base: int = 1
    per_token: int = 1


def words(prompt: str) -> int:
    """The number of runs of ASCII letters and digits."""
    return sum(1 for _ in _WORD.finditer(prompt))


def needed(prompt: str, tokens: int, prices: Prices = Prices()) -> int:
    """The least that a job costs. tokens: that it may generate. Raises BadRequest for none, or too many."""
    if not 1 <= tokens <= MAX_TOKENS:
        raise BadRequest(f"a job generates from 1 to {MAX_TOKENS} tokens, not {tokens}")
    return prices.base + (words(prompt) + tokens) * prices.per_token


def multiplier(quantity: int, least: int) -> float:
    """What was paid in proportion to what is needed. Raises BadRequest for too little, with both amounts.

    A float, correctly rounded: quantities that differ by less than one part in 2^53 have equal places in the queue.
    """
    if least < 1:
        raise BadRequest(f"a job needs at least 1 unit, not {least}; see to the prices")
    if quantity < least:
        raise BadRequest(f"the job needs {least} units, and {quantity} were paid; the quote tells the fee")
    try:
        return quantity / least
    except OverflowError:
        raise BadRequest(f"{quantity.bit_length()} bits are more money than there is") from None


def quote(
    least: int,
    last_multiplier: float = 1.0,
    queue_length: int = 0,
    *,
    fee: int | None = None,
    by: float | Fraction | None = None,
) -> int:
    """What a client pays for a job that needs `least`: enough to be next, as far as anybody knows.

    fee: what the client wants to pay instead. by: what the client multiplies it with.
    """
    price: Fraction = _exact(last_multiplier) * least
    if queue_length > 0:
        price *= _BUMP
    if fee is not None:
        price = Fraction(fee)
    if by is not None:
        price *= _exact(by)
    return price.numerator // price.denominator


def published(last_multiplier: float) -> float:
    """The last multiplier as others are told it: from 1 to 1000."""
    return min(max(last_multiplier, 1.0), MAX_PUBLISHED_MULTIPLIER)


def parse_amount(text: str) -> int:
    """Smallest units of an amount with up to 12 decimals, such as 1.5. Raises BadRequest."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise BadRequest(f"an amount is a number with at most {DECIMALS} decimals, such as 1.5, not {text[:80]!r}")
    return int(found[1]) * UNIT + int((found[2] or "").ljust(DECIMALS, "0"))


def format_amount(units: int) -> str:
    """An amount with as many decimals as it needs."""
    sign = "-" if units < 0 else ""
    whole, part = divmod(abs(units), UNIT)
    decimals = f".{part:0{DECIMALS}}".rstrip("0") if part else ""
    return f"{sign}{whole}{decimals}"


def _exact(value: float | Fraction) -> Fraction:
    """The decimal number that a float is written as: 1.1 is eleven tenths."""
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))
