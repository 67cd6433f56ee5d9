"""What a call returns to a client: a value, and text while it runs."""

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


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of a running call, provisional until its result. is_echo: it is part of the prompt."""

    text: str
    is_echo: bool = False
