"""What instructions cost on the IC in cycles, XDR and US dollars, and how long they take there.

The norm is a subnet of 13 nodes; others pay in proportion to their nodes. Queries are free. A trap is charged too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

NODES = 13
INITIAL_CYCLES = 20_000_000_000_000  # of a new canister
CYCLES_PER_UPDATE = 5_000_000
CYCLES_PER_INSTRUCTION = 1
CYCLES_PER_INGRESS = 1_200_000
CYCLES_PER_REQUEST_BYTE = 2000

CYCLES_PER_XDR = 10**12
USD_PER_XDR = Fraction("1.366")
SECONDS_PER_INSTRUCTION = Fraction("0.43") / 2_000_000_000  # measured on the main network, within 20 %

CallOutcome = Literal["ok", "err", "trap"]


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call cost. limit: instructions that it might have taken; None: not enforced. parts sum to
    instructions. receipt: the id of the call's receipt; "": it has none. n_prompt, n_generated: tokens that it decoded;
    None: it had none to decode.
    """

    instructions: int
    cycles: int
    limit: int | None
    parts: Mapping[str, int]
    receipt: str = field(default="", compare=False)
    n_prompt: int | None = None
    n_generated: int | None = None


def update_cycles(instructions: int, request_bytes: int = 0, *, nodes: int = NODES) -> int:
    """Cycles of one update call, its ingress message included."""
    cycles = CYCLES_PER_UPDATE + CYCLES_PER_INSTRUCTION * instructions
    cycles += CYCLES_PER_INGRESS + CYCLES_PER_REQUEST_BYTE * request_bytes
    return _on_subnet(cycles, 1, nodes)


def xdr(cycles: int) -> float:
    return float(Fraction(cycles, CYCLES_PER_XDR))


def usd(cycles: int) -> float:
    return float(USD_PER_XDR * cycles / CYCLES_PER_XDR)


def seconds(instructions: int) -> float:
    """Main-network time of a call."""
    return float(SECONDS_PER_INSTRUCTION * instructions)


def _on_subnet(cycles: int, divisor: int, nodes: int) -> int:
    """cycles / divisor, scaled to the subnet, rounded half up."""
    unit = divisor * NODES
    return (2 * cycles * nodes + unit) // (2 * unit)
