"""What a call asks of the engine, and what it gets back.

Plain values without llama.cpp, so that scheduler, handlers and tests can speak in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from canister.errors import BadRequest
from canister.flags.params import SamplingParams

FinishReason = Literal["stop", "length", "instructions", "time", "cancelled", "error"]
"""stop: end of generation or reverse prompt. length: token limit or context. instructions: the budget.
time: its own."""

Tokens = NDArray[np.int32]
Flags = NDArray[np.bool_]


class Budget(Protocol):
    """What the engine asks the meter before each step; implemented above the engine."""

    def admit_prompt(self, position: int, n_wanted: int) -> int:
        """How many of the next n_wanted prompt tokens, the first at `position`, may still be decoded."""

    def admit_sample(self, position: int) -> bool:
        """May the token at `position` be sampled? Called before sampling it."""

    def admit_decode(self, position: int) -> bool:
        """May the token just sampled for `position` be decoded?"""

    def cut_prompt(self, batches: Sequence[tuple[int, int]]) -> None:
        """Of the prompt only these batches were decoded: (position, tokens) of each."""


def are_tokens(tokens: Tokens, n_vocab: int) -> bool:
    """Are all of them from 0 to n_vocab - 1?"""
    return not len(tokens) or bool(tokens.view(np.uint32).max() < n_vocab)  # a negative one is a large one there


@dataclass(slots=True, eq=False)
class Ahead:
    """Of calls that go on with one prompt: between two of them the engine decodes what the next ones will need.

    Only KV rows: no call is charged for them, or counts them, before it comes. is_over: set, on any thread, when no
    more calls come. is_guess: nobody has said that one comes; it is over when what was decoded is there. has_decoded:
    anything of their prompt. due: the place of their prompt among those of their caller, which the scheduler gives it.
    """

    is_over: bool = False
    is_guess: bool = False
    has_decoded: bool = False
    due: tuple[int, int] | None = None


class Sampled(NamedTuple):
    """A token that was sampled. logprob: as the request wants it; None where not wanted.

    top: the likeliest tokens and their log-probabilities, the likeliest first, as many as are wanted.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class KvSegment:
    """KV rows as stored (encoded by `kv/rows.py`) of consecutive tokens from position `first` on. `count` of them are
    in use.
    """

    first: int
    count: int
    rows: bytes | memoryview


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One bounded call. The conversation is `prefix` (already decoded once, reusable) followed by `prompt`.

    key: the conversation's name, by which its slot is found again; None for one that is forgotten after the call.
    caller: whose it is. The KV rows of a caller's conversations may be used for each other, nobody else's ever.
    prefix, prefix_generated: reused tokens, and which of them were generated (decoded one by one), not prompt.
    prefix_starts: with which of its prompt tokens a decode began; for engines that repeat the cut, None for others.
    n_whole: of the prefix: what follows is the beginning of a decode that was longer; None: nothing follows.
    prompt: tokens still to be decoded, in logical batches of at most the context's n_batch.
    max_decode: the most tokens, prompt or generated, to decode in this call; None for no limit.
    n_predict: the most tokens to sample in this call; -1 until end of generation, -2 until a full context.
    seed: of the answer. n_draws: how often llama.cpp would have drawn with it before this call, for the tokens that the
        answer has already; GenerateResult.n_draws of the call before.
    n_continued: tokens at the end of what is given that belong to the answer: its grammar has taken them. None: those
        that were generated, if no prompt follows them.
    restore: reads the stored KV rows of the first n prefix tokens, on the engine's thread; as many leading
        segments as are sound, possibly none; the engine decodes again what is missing.
    n_stored: of how many leading prefix tokens the container has KV rows.
    ends: is given each sampled token that is not end of generation, and says whether it ends the answer, as a reverse
        prompt does; on the engine's thread.
    decodes_end: the token that ends the answer is decoded too; else it is only handed over, as the last of n_predict.
    seconds: after this time the call ends, once it has decoded some of its prompt or a token; None: no limit.
    ahead: of the calls that this one is of; None: it is alone.
    keep: False for queries: whatever is decoded is rolled back at the end.
    want_rows: hand out the KV rows at the end.
    n_logprobs: None: no log-probabilities; else those of each sampled token, and of the n likeliest.
    probs_after: they are those of what the samplers have left to choose from, not of the raw logits.
    n_prompt_logprobs: None: the prompt is only taken in; else it is scored: each of its tokens that is decoded gives
        the log-probabilities of the one behind it, and of the n likeliest. No rows are used but those of the prefix.
    on_tokens: called on the event loop with tokens just sampled, at most once a step.
    """

    key: str | None
    caller: str
    prefix: Tokens
    prefix_generated: Flags
    prompt: Tokens
    sampling: SamplingParams
    seed: int
    n_draws: int = 0
    n_continued: int | None = None
    max_decode: int | None = None
    n_predict: int = -1
    reverse_prompts: tuple[str, ...] = ()
    ends: Callable[[int], bool] | None = None
    decodes_end: bool = True
    seconds: float | None = None
    ahead: Ahead | None = None
    context_shift: bool = False
    n_keep: int = 0
    restore: Callable[[int], list[KvSegment]] | None = None
    n_stored: Callable[[], int] | None = None
    prefix_starts: Flags | None = None
    n_whole: int | None = None
    budget: Budget | None = None
    keep: bool = True
    want_rows: bool = True
    n_logprobs: int | None = None
    probs_after: bool = False
    n_prompt_logprobs: int | None = None
    on_tokens: Callable[[list[Sampled]], None] | None = None

    def check(self, n_vocab: int, n_ctx: int) -> None:
        """Refuse what would be a fault deep inside. Raises BadRequest, or ValueError for a bug of the calling code."""
        for flags in (self.prefix_generated, self.prefix_starts):
            if flags is not None and len(self.prefix) != len(flags):
                raise ValueError(f"{len(self.prefix)} tokens, {len(flags)} flags")
        if not len(self.prefix) and not len(self.prompt):
            raise BadRequest("input is empty")
        if len(self.prefix) > n_ctx:
            raise BadRequest(f"The conversation has {len(self.prefix)} tokens, the context {n_ctx}")
        for tokens in (self.prefix, self.prompt):
            if not are_tokens(tokens, n_vocab):
                raise BadRequest(f"A token beyond the {n_vocab} of the vocabulary")


@dataclass(slots=True)
class GenerateResult:
    """What one call did.

    prompt_chunks: sizes of the logical prompt batches that were decoded, in order.
    sampled: every token sampled in this call; all but possibly the last were decoded.
    n_generated: how many of `sampled` were decoded.
    redrawn: for each of `sampled`, whether a first draw was refused by the grammar, so that there were two.
    n_draws: those before this call, and those for the tokens that were decoded. A token that was sampled and not
        decoded is drawn anew by the next call.
    details: for each of `sampled`, its log-probabilities, if they are wanted.
    scored: the tokens of the prompt, from the second behind the prefix on, with their log-probabilities, if they are
        wanted: one for each token that was decoded, but for the prompt's last.
    rows: KV rows, encoded by `kv/rows.py`, of all tokens from position `rows_first` to the end: those decoded in this
        call (prompt, then generated), and before them prefix tokens whose rows the container lacks; b"" if not
        wanted.
    starts: with which prompt tokens a decode began, of all tokens that were decoded, from the conversation's first on;
        None where the cut does not matter.
    shifted: a context shift happened: the conversation in the KV memory is no longer that of the tokens.
    redecoded: prefix tokens that had to be decoded again because no KV rows were at hand (not metered).
    *_seconds: wall time of the steps that the call took part in, shared with its neighbours.
    """

    finish: FinishReason
    prompt_chunks: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    n_generated: int = 0
    redrawn: list[bool] = field(default_factory=list)
    n_draws: int = 0
    details: list[Sampled] = field(default_factory=list)
    scored: list[Sampled] = field(default_factory=list)
    eog: bool = False
    shifted: bool = False
    rows: bytes = b""
    rows_first: int = 0
    starts: Flags | None = None
    redecoded: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    sample_seconds: float = 0.0

    @property
    def n_prompt_decoded(self) -> int:
        return sum(self.prompt_chunks)


def n_common(tokens: Tokens, generated: Flags, others: Tokens, others_generated: Flags) -> int:
    """How many leading tokens agree, in themselves and in whether they were generated."""
    return min(common_prefix(tokens, others), common_prefix(generated, others_generated))


def n_last_generated(generated: Flags) -> int:
    """How many tokens at the end were generated, one after the other."""
    prompt = np.flatnonzero(~generated)
    return len(generated) - (int(prompt[-1]) + 1 if len(prompt) else 0)


def boundaries(generated: Flags, starts: Flags) -> Flags:
    """For n tokens, n + 1 flags: does a decode begin here? True before the first token and behind the last one."""
    found = np.ones(len(generated) + 1, np.bool_)
    found[1:-1] = generated[1:] | generated[:-1] | starts[1:]
    return found


def last_boundary(found: Flags, n: int) -> int:
    """The last one at n or before."""
    return int(np.flatnonzero(found[: n + 1])[-1])


def common_prefix(a: NDArray[Any], b: NDArray[Any]) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    at = int(differ.argmax()) if n else 0
    return at if n and differ[at] else n
