"""The rules of a call, with a model that is a list of tokens."""

from __future__ import annotations

from collections import abc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.request import GenerateResult
from canister.engine.sequence import Sequence
from canister.engine.sequence_context import ContextLimits
from tests.engine.driver import NOTHING

EOG = 99
NO_LOGITS = np.zeros(1, np.float32)


class Letters:
    """Token n is the n-th letter."""

    def is_eog(self, token: int) -> bool:
        return token == EOG

    def piece(self, token: int, special: bool) -> bytes:
        return bytes([97 + token % 26])


class Says:
    """Samples these tokens, by their number in the chat; notes what it was told. Odd ones are drawn twice."""

    def __init__(self, answer: abc.Sequence[int], first: int, n_draws: int) -> None:
        self.answer, self.first, self.n_draws = answer, first, n_draws
        self.begun: list[tuple[list[int], int]] = []
        self.accepted: list[int] = []

    def begin(self, history: list[int], n_continued: int) -> None:
        self.begun.append((list(history), n_continued))

    def sample(self, logits: np.ndarray, index: int) -> int:
        token = self.answer[(index - self.first) % len(self.answer)]
        self.n_draws += 1 + token % 2
        return token

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def sequence_of(
    prompt: abc.Sequence[int] = (),
    prefix: abc.Sequence[int] = (),
    n_generated: int = 0,
    *,
    answer: abc.Sequence[int] = tuple(range(20)),
    n_ctx: int = 1000,
    n_batch: int = 8,
    can_shift: bool = True,
    cut: ContextLimits | None = None,
    **changes: Any,
) -> Sequence:
    """A call; the last n_generated tokens of the prefix were generated."""
    n_before = len(prefix)
    flags = np.arange(n_before) >= n_before - n_generated
    request = replace(
        NOTHING,
        prefix=np.array(prefix, np.int32),
        prefix_generated=flags,
        prompt=np.array(prompt, np.int32),
        **changes,
    )
    says = Says(answer, n_before + len(prompt), request.n_draws)
    limits = ContextLimits(n_ctx, n_batch, can_shift, add_bos=True) if cut is None else cut
    return Sequence(request, limits, Letters(), says)


def run(sequence: Sequence, n_chunk: int = 100) -> GenerateResult:
    """What the engine does, without a model."""
    reason = sequence.idle_reason()
    if reason is not None:
        sequence.finish(reason)
    while not sequence.finished:
        if sequence.is_decoded:
            sequence.shift()
            sequence.advance(NO_LOGITS)
        elif sequence.wants_row:
            sequence.decoded(1)
        else:
            sequence.decoded(len(sequence.chunk(n_chunk, n_chunk)))
    assert sequence.is_decoded or reason
    return sequence.result


def test_prompt_then_answer() -> None:
    sequence = sequence_of([1, 2, 3], n_predict=5)
    result = run(sequence)
    assert (result.finish, result.prompt_chunks, result.sampled) == ("length", [3], [0, 1, 2, 3, 4])
    assert result.n_generated == 4
    assert sequence.history.tolist() == [1, 2, 3, 0, 1, 2, 3]
    tokens, generated, _ = sequence.held()
    assert tokens.tolist() == sequence.history.tolist()
    assert generated.tolist() == [False] * 3 + [True] * 4


@pytest.mark.parametrize(
    ("max_decode", "chunks", "n_sampled"), [(0, [], 0), (3, [3], 0), (10, [8, 2], 0), (12, [8, 2], 2)]
)
def test_every_decoded_token_counts(max_decode: int, chunks: list[int], n_sampled: int) -> None:
    result = run(sequence_of(range(10), max_decode=max_decode))
    assert (result.finish, result.prompt_chunks, len(result.sampled)) == ("length", chunks, n_sampled)
    assert result.n_generated == n_sampled


def test_draws_count_for_tokens_that_are_decoded() -> None:
    """The last token of an n_predict is not, so the next call draws it again: it begins before those draws."""
    result = run(sequence_of([1, 2], [3], n_predict=4, n_draws=10, answer=[4, 5, 6, 7]))
    assert (result.sampled, result.redrawn) == ([4, 5, 6, 7], [False, True, False, True])
    assert (result.n_generated, result.n_draws) == (3, 14)
    whole = run(sequence_of([1], max_decode=5, n_draws=10, answer=[4, 5, 6, 7]))
    assert (whole.n_generated, whole.n_draws) == (4, 16)


def test_what_an_answer_has_already() -> None:
    def begun(sequence: Sequence) -> tuple[list[int], int]:
        run(sequence)
        assert isinstance(sequence.sampler, Says)
        return sequence.sampler.begun[0]

    assert begun(sequence_of([], [1, 2, 3, 4], 2, n_predict=1)) == ([1, 2, 3, 4], 2)
    assert begun(sequence_of([5], [1, 2, 3, 4], 2, n_predict=1)) == ([1, 2, 3, 4, 5], 0)


def test_end_of_generation() -> None:
    result = run(sequence_of([1], answer=[5, EOG, 6]))
    assert (result.finish, result.eog, result.sampled, result.n_generated) == ("stop", True, [5, EOG], 2)
    last = run(sequence_of([1], answer=[5, EOG, 6], n_predict=2))
    assert (last.finish, last.eog, last.sampled, last.n_generated) == ("stop", True, [5, EOG], 1)
    assert run(sequence_of([1, EOG], n_predict=2)).eog is False


@pytest.mark.parametrize(
    ("reverse", "sampled"),
    [("cde", [2, 3, 4]), ("e", [2, 3, 4]), ("zc", [2]), ("", [2, 3, 4, 5, 6]), ("nothing", [2, 3, 4, 5, 6])],
)
def test_reverse_prompts(reverse: str, sampled: list[int]) -> None:
    result = run(sequence_of([25], answer=range(2, 20), reverse_prompts=("nowhere", reverse), n_predict=5))
    assert result.sampled == sampled
    assert result.finish == ("stop" if len(sampled) < 5 else "length")


def test_a_reverse_prompt_token_is_kept() -> None:
    result = run(sequence_of([25], answer=[2, 3, 4], reverse_prompts=("cd",)))
    assert (result.sampled, result.n_generated) == ([2, 3], 2)
    last = run(sequence_of([25], answer=[2, 3, 4], reverse_prompts=("cd",), n_predict=2))
    assert (last.finish, last.sampled, last.n_generated) == ("stop", [2, 3], 1)


def test_context() -> None:
    result = run(sequence_of([1] * 6, n_ctx=10))
    assert (result.finish, result.n_generated) == ("length", 4)
    full = sequence_of([], [1] * 10, n_ctx=10)
    assert full.idle_reason() == "length"
    assert run(sequence_of([1] * 20, n_ctx=10)).prompt_chunks == [8, 2]


def test_shift_keeps_bos_and_n_keep_and_drops_half_of_the_rest() -> None:
    sequence = sequence_of([1] * 6, n_ctx=11, context_shift=True, n_keep=2, n_predict=8)
    while sequence.position < 11:
        sequence.n_done += 6 if not sequence.n_done else 1
        assert sequence.shift() is None or sequence.position < 11
        if sequence.position < 11:
            sequence.advance(NO_LOGITS)
    sequence = sequence_of([1] * 6, n_ctx=11, context_shift=True, n_keep=2, n_predict=30)
    assert run(sequence).shifted
    sequence.n_done -= 1
    assert len(sequence.result.sampled) == 30
    assert sequence._shiftable() == (3, 4)


@pytest.mark.parametrize(
    "changes", [{"context_shift": False}, {"n_predict": -2}, {"can_shift": False}, {"max_decode": 10}]
)
def test_no_shift(changes: dict[str, Any]) -> None:
    result = run(sequence_of([1] * 6, n_ctx=10, **{"context_shift": True, **changes}))
    assert (result.finish, result.shifted, result.n_generated) == ("length", False, 4)


def test_what_the_sampler_is_told() -> None:
    def begun(sequence: Sequence) -> tuple[list[int], int]:
        run(sequence)
        says = sequence.sampler
        assert isinstance(says, Says)
        assert says.accepted == sequence.result.sampled
        assert len(says.begun) == 1
        return says.begun[0]

    assert begun(sequence_of([1, 2], n_predict=2)) == ([1, 2], 0)
    assert begun(sequence_of([3], [1, 2], 1, n_predict=2)) == ([1, 2, 3], 0)
    assert begun(sequence_of([], [1, 2, 3], 2, n_predict=2)) == ([1, 2, 3], 2)
    assert begun(sequence_of([], [1, 2, 3], 3, n_predict=2)) == ([1, 2, 3], 3)


@given(
    flags=st.lists(st.booleans(), min_size=1, max_size=60),
    n_max=st.integers(1, 12),
)
def test_a_prompt_token_goes_alone_only_if_it_is_alone(flags: list[bool], n_max: int) -> None:
    """Chunks cover runs of prompt tokens whole, in order, and none has one token unless its run has."""
    sequence = sequence_of([1], [*range(len(flags))])
    sequence.generated[: len(flags)] = flags
    while not sequence.is_decoded:
        start = sequence.n_done
        if sequence.wants_row:
            sequence.n_done += 1
            continue
        chunk = sequence.chunk(n_max, n_max)
        assert 1 <= len(chunk) <= max(n_max, 3)
        assert chunk.tolist() == sequence.history[start : start + len(chunk)].tolist()
        assert not any(sequence.generated[start : start + len(chunk)])
        before = start == 0 or sequence.generated[start - 1]
        stop = start + len(chunk)
        after = stop == len(sequence.history) or sequence.generated[stop]
        assert len(chunk) > 1 or (before and after)
        sequence.n_done = stop


@given(
    n_prompt=st.integers(1, 40),
    n_predict=st.integers(1, 30),
    limits=st.lists(st.integers(1, 9), max_size=60),
    n_batch=st.integers(1, 10),
)
def test_cut_calls_add_up(n_prompt: int, n_predict: int, limits: list[int], n_batch: int) -> None:
    """Through any calls, the decoded tokens are those of one call, each call within its limit."""
    prompt, answer = list(range(n_prompt)), list(range(50, 80))
    whole = sequence_of(prompt, answer=answer, max_decode=n_prompt + n_predict, n_batch=n_batch)
    run(whole)
    held: list[int] = []
    n_generated, left = 0, prompt
    for limit in [*limits, 1000]:
        n_left = n_prompt + n_predict - len(held)
        sequence = sequence_of(left, held, n_generated, answer=answer, max_decode=min(limit, n_left), n_batch=n_batch)
        says = sequence.sampler
        assert isinstance(says, Says)
        says.first = n_prompt
        result = run(sequence)
        assert result.n_prompt_decoded + result.n_generated == min(limit, n_left)
        held, left = sequence.history.tolist(), left[result.n_prompt_decoded :]
        n_generated += result.n_generated
    assert held == whole.history.tolist()


# -- a cut that is repeated

REPEATS = ContextLimits(1000, 100, True, True, repeats_cut=True, n_chunk=4)
WHOLE = replace(REPEATS, uses_whole=True)


def starts_at(*positions: int, of: int) -> np.ndarray:
    return np.isin(np.arange(of), positions)


def chunks_of(sequence: Sequence, n_max: int, n_most: int = 100) -> list[int]:
    """What is decoded until the history is, by sizes."""
    sizes = []
    while not sequence.is_decoded:
        sizes.append(1 if sequence.wants_row else len(sequence.chunk(n_max, n_most)))
        sequence.decoded(sizes[-1])
    return sizes


@pytest.mark.parametrize("n_max", [1, 4, 100])
def test_a_prefix_is_decoded_again_as_it_was_cut(n_max: int) -> None:
    starts = starts_at(0, 3, 4, of=12)
    sequence = sequence_of([7] * 6, [1] * 12, 2, cut=REPEATS, prefix_starts=starts)
    sizes = chunks_of(sequence, n_max)
    assert sizes[:5] == [3, 1, 6, 1, 1]  # the last two were generated
    assert sum(sizes[5:]) == 6  # what is new is cut as suits
    held = sequence.held()[2]
    assert held[:12].tolist() == starts.tolist()
    again = sequence_of([], [1] * 12 + [7] * 6, cut=REPEATS, prefix_starts=held)
    again.generated[10:12] = True
    assert chunks_of(again, 50) == sizes
    assert chunks_of(sequence_of([7] * 6, [1] * 12, 2, prefix_starts=starts), 100) == [10, 1, 1, 6]  # does not matter


def test_a_decode_that_is_too_large_here_is_cut_and_that_is_noted() -> None:
    sequence = sequence_of([], [1] * 10, cut=REPEATS, prefix_starts=starts_at(0, of=10))
    assert chunks_of(sequence, 100, n_most=4) == [4, 4, 2]
    assert np.flatnonzero(sequence.held()[2]).tolist() == [0, 4, 8]


@pytest.mark.parametrize(
    ("limits", "n_tokens", "starts", "n_common"),
    [
        (REPEATS, 6, (0, 3), 6),
        (REPEATS, 20, (0, 3, 6), 16),
        (REPEATS, 20, (0, 3), 16),  # it may end within a decode: its rows are stored as they are
        (REPEATS, 20, (0, 4, 6), 0),
        (REPEATS, 20, (0, 3, 5, 6), 3),
        (WHOLE, 6, (0, 3), 6),
        (WHOLE, 20, (0, 3), 3),  # the prefix ended at 6
        (WHOLE, 16, (0, 3, 6, 10, 14), 16),  # as this call would cut the rest
        (WHOLE, 16, (0, 3, 6, 12), 6),
        (WHOLE, 20, (0, 3, 6, 10, 14), 14),
    ],
)
def test_what_was_cut_otherwise_is_used_up_to_there(
    limits: ContextLimits, n_tokens: int, starts: tuple[int, ...], n_common: int
) -> None:
    """A prefix of six tokens, decoded by threes, and a prompt of ten, which one call alone decodes by fours."""
    sequence = sequence_of([1] * 10, [1] * 6, cut=limits, prefix_starts=starts_at(0, 3, of=6), n_whole=6)
    tokens, generated = np.ones(n_tokens, np.int32), np.zeros(n_tokens, np.bool_)
    assert sequence.n_common(tokens, generated, starts_at(*starts, of=n_tokens)) == n_common


def test_what_another_call_has_decoded_is_noted_as_it_was_cut() -> None:
    sequence = sequence_of([1] * 10, [1] * 6, cut=REPEATS, prefix_starts=starts_at(0, 3, of=6))
    sequence.use(starts_at(0, 3, 6, 11, of=13), 13)
    sequence.n_done = 13
    assert chunks_of(sequence, 100) == [3]
    assert np.flatnonzero(sequence.held()[2]).tolist() == [0, 3, 6, 11, 13]
    assert sequence.begun(13) == 11
    assert sequence.whole(12) == 12
