"""What `Llama` needs of a model: tokens of texts, and texts of contexts. Methods block; they are called on threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Context:
    """What a model has read and said. prompt: tokens that it was given. said: tokens that it drew after them.

    n_decoded: how many of `said` were decoded, which the last one is not. n_draws: random numbers that those took.
    is_over: the end of generation was drawn.
    """

    prompt: tuple[int, ...] = ()
    said: tuple[int, ...] = ()
    n_decoded: int = 0
    n_draws: int = 0
    is_over: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.said


@dataclass(frozen=True, slots=True)
class Drawing:
    """temperature: 0 takes the likeliest token."""

    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """pieces: the bytes of each new token. instructions, cycles: what the canister was charged for them, by the calls
    that have these receipts.
    """

    context: Context
    pieces: tuple[bytes, ...]
    instructions: int
    cycles: int
    receipts: tuple[str, ...] = ()


class Model(Protocol):
    """name: for people. n_context: tokens that fit."""

    @property
    def name(self) -> str: ...

    @property
    def n_context(self) -> int: ...

    def tokens(self, text: bytes, *, is_first: bool) -> tuple[int, ...]:
        """is_first: the begin-of-text token comes in front, where the model has one."""

    def say(self, owner: str, context: Context, n_tokens: int, drawing: Drawing) -> Said:
        """Up to n_tokens more. owner: whose prompt cache is used. Raises CanisterError, Trap; nothing is kept then."""


class Models(Protocol):
    def open(self, id: str) -> Model:
        """A model by the id of its file, or by its name. Raises NotFound."""

    def close(self) -> None:
        """What is being said ends, with CanisterStopping. From the event loop's thread."""
