"""What a method answered to a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """value: of the method's type. instructions, cycles: what the call cost; None where the server does not tell."""

    value: T
    instructions: int | None = None
    cycles: int | None = None
