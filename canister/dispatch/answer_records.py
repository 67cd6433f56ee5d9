"""What is asked of an answer, the events that it gives, and the totals that stand after each of its calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from canister.dispatch.answer_text import Piece
from canister.flags.params import SamplingParams

if TYPE_CHECKING:
    from canister.api.tokens import Token
    from canister.store.transaction import Transaction

Prompt = str | Sequence[int | str]

Finish = Literal["stop", "length"]
"""stop: end of generation, or a stop string. length: as long as it may be, or the context is full."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An answer to ask for.

    prompt: its text, special tokens in it parsed, or tokens and texts in order. seed: None: drawn.
    max_tokens: of the answer; None: until the context is full. stops: strings that end the answer, and are no part of
    it. shown_special: the texts of special tokens that are part of the text.
    n_logprobs: None: no log-probabilities; else those of each token, and of the n likeliest at its place.
    probs_after: by what the samplers have left to choose from, not by the raw logits.
    n_prompt_logprobs: None: none of the prompt; else those of each of its tokens but the first, and of the n likeliest.
    No cache is used then.
    cache: name of the caller's prompt cache, if it is not in use; None: the one of earlier answers that begins most
    like the prompt. reuses: False: no cache is looked at, and none stays.
    """

    prompt: Prompt
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int | None = None
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    shown_special: tuple[str, ...] = ()
    n_logprobs: int | None = None
    probs_after: bool = False
    n_prompt_logprobs: int | None = None
    cache: str | None = None
    reuses: bool = True


@dataclass(frozen=True, slots=True)
class Scored:
    """Tokens of the prompt with their log-probabilities, from token number `first` on. The very first has none."""

    first: int
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Ingested:
    """The progress of the prompt: n_done of n_prompt tokens, of which a cache had n_cached. seconds: since the
    start.
    """

    n_prompt: int
    n_cached: int
    n_done: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """How an answer ended, and the totals of its calls.

    stop: the stop string that ended it. n_generated: tokens that were sampled. cycles: those that were charged.
    *_seconds: of the decodes that its calls took part in. receipts: their ids, of the calls since it was gone on with.
    """

    finish: Finish
    stop: str | None
    n_prompt: int
    n_cached: int
    n_generated: int
    n_calls: int
    instructions: int
    cycles: int
    prompt_seconds: float
    decode_seconds: float
    seed: int
    receipts: tuple[str, ...] = ()


Event = Scored | Ingested | Piece | Answered


@dataclass(frozen=True, slots=True)
class Taken:
    """The totals of an answer's committed calls.

    n_remaining: tokens of the prompt that are not in yet. n_sampled: tokens of the answer. n_decoded: those of them
    that the cache has. n_draws: random numbers that they took. finish: None: it is not finished.
    n_scored: tokens of the prompt with log-probabilities, which come before those of the answer where they are kept.
    """

    n_prompt: int
    n_remaining: int
    n_cached: int = 0
    n_sampled: int = 0
    n_decoded: int = 0
    n_draws: int = 0
    n_calls: int = 0
    instructions: int = 0
    cycles: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    finish: Finish | None = None
    n_scored: int = 0

    def answered(self, finish: Finish, stop: str | None, seed: int, receipts: Sequence[str] = ()) -> Answered:
        return Answered(
            finish,
            stop,
            self.n_prompt,
            self.n_cached,
            self.n_sampled,
            self.n_calls,
            self.instructions,
            self.cycles,
            self.prompt_seconds,
            self.decode_seconds,
            seed,
            tuple(receipts),
        )


class Keeper(Protocol):
    """Keeps the results of an answer's calls. tokens, taken: of an answer that is continued; taken None: of a
    new one.
    """

    tokens: Sequence[Token]
    taken: Taken | None

    def keep(self, transaction: Transaction, tokens: Sequence[Token], taken: Taken) -> None:
        """Called in the transaction that commits a call, with the call's tokens and the totals after it."""
