"""The events of a turn while it is answered: the one language between `run.py` and the dialects. Plain records, no I/O.

Begun (PromptScored | Progress)* (Timed? TextDelta | ThoughtDelta | ToolBegun ToolArguments* ToolDone)* Finished Done
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from pydantic import JsonValue

from canister.api.tokens import Token

Finish = Literal["stop", "length", "tool_calls"]
"""stop: end of generation, or a stop string. length: the longest answer, or the context is full."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The turn is admitted. seed: of choice 0. prompt: the text that the model continues."""

    n_prompt: int
    seed: int = 0
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """n_done tokens of the prompt are in, of which a cache had n_cached. seconds: since Begun."""

    n_prompt: int
    n_cached: int
    n_done: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PromptScored:
    """The prompt's tokens from number `first` on, of n_prompt; only if requested (Turn.n_prompt_logprobs).

    They are of n choices, from number `choice` on.
    """

    choice: int
    n: int
    first: int
    tokens: tuple[Token, ...]
    n_prompt: int

    @property
    def is_last(self) -> bool:
        return self.first + len(self.tokens) == self.n_prompt


class TextDelta(NamedTuple):
    """tokens: those whose text this completes; none unless requested."""

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()


class ThoughtDelta(NamedTuple):
    """A piece of the model's thoughts before its answer."""

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolBegun:
    """index: 0, 1, … within the choice. id: unique."""

    choice: int
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """A piece of the JSON text of a tool's arguments."""

    choice: int
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolDone:
    choice: int
    index: int


@dataclass(frozen=True, slots=True)
class Finished:
    """stop: the stop string that ended it; None with finish "stop": end of generation. n_generated: tokens."""

    choice: int
    finish: Finish
    stop: str | None = None
    n_generated: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """n_cached, n_prompt: prompt tokens that a cache had, and those that were decoded."""

    n_cached: int = 0
    n_prompt: int = 0
    prompt_seconds: float = 0.0
    n_generated: int = 0
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Timed:
    """The costs of the turn so far, before the next delta. Only if requested (Turn.wants_timings)."""

    timings: Timings


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all choices together. n_prompt: tokens of the prompt, counted once. n_cached: those of them that a cache had.
    n_thought: generated tokens that were thoughts. cycles: those that were charged. receipts: ids, of the calls.
    """

    n_prompt: int
    n_cached: int
    n_generated: int
    n_thought: int = 0
    n_calls: int = 0
    instructions: int = 0
    cycles: int = 0
    receipts: tuple[str, ...] = ()

    @property
    def told_receipts(self) -> dict[str, list[JsonValue]]:
        """The field of `usage` that has them, where there are any."""
        return {"receipts": list(self.receipts)} if self.receipts else {}


@dataclass(frozen=True, slots=True)
class Done:
    usage: Usage
    timings: Timings = Timings()


Delta: TypeAlias = TextDelta | ThoughtDelta | ToolBegun | ToolArguments | ToolDone
Event: TypeAlias = Begun | PromptScored | Progress | Timed | Delta | Finished | Done
"""Deltas of several choices may alternate. Each choice has one Finished, and Done comes once, at the end.

Texts of deltas are whole characters; their cuts mean nothing. They are not empty, but for a token without a text where
the prompt's tokens were requested. A tool call that is cut off has no ToolDone. A failure after Begun is raised as
DoorError.
"""
