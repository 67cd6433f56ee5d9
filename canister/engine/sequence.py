"""The tokens of one call: which it needs decoded next, when it samples, and why it stops.

Plain Python: tokens and logits come in, tokens go out, so that every rule of a call is tested without a model. What is
decoded of them, and how it was cut, is told by `history.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from canister.engine.history import History
from canister.engine.request import (
    FinishReason,
    GenerateRequest,
    GenerateResult,
    Sampled,
    Tokens,
    n_last_generated,
)
from canister.engine.sampling.logprobs import logprobs
from canister.engine.sequence_context import ContextLimits, TokenSampler, Vocabulary

_REVERSE_WINDOW = 32  # tokens in which a reverse prompt is looked for, as in llama-completion
_REVERSE_SLACK = 2  # bytes that may follow it: it may be tokenized together with what follows


class Sequence(History):
    """A call from its admission to its end. `finished` is None until then."""

    def __init__(
        self,
        request: GenerateRequest,
        limits: ContextLimits,
        vocabulary: Vocabulary,
        sampler: TokenSampler,
        *,
        goes_on: bool = False,
    ) -> None:
        """goes_on: the sampler has sampled what is given."""
        super().__init__(request, limits)
        self.request = request
        self.vocabulary = vocabulary
        self.sampler = sampler
        self.result = GenerateResult("error")
        self.finished: FinishReason | None = None
        self._due: float | None = None
        self.logits: NDArray[np.float32] | None = None  # at the end: those after the last token of the history
        self._n_dropped = 0
        self._ending: FinishReason | None = None  # the reason, once the token that ends the call is sampled
        self._prompt_cut: FinishReason | None = None
        self.has_begun = goes_on  # to sample
        self._plan_prompt()
        self._n_given = self._n_history

    # -- what comes next

    @property
    def position(self) -> int:
        """Where the next token goes: n_done, less what context shifts have dropped."""
        return self.n_done - self._n_dropped

    def score(self, rows: Iterable[NDArray[np.float32]]) -> None:
        """Note the log-probabilities of the tokens behind the next ones, whose logits these are."""
        scored, tokens = self.result.scored, self._wanted[0]
        for behind, logits in enumerate(rows, self.n_done + 1):
            if behind == self.n_prefix + len(scored) + 1:
                token = int(tokens[behind])
                scored.append(Sampled(token, *logprobs(logits, token, self.request.n_prompt_logprobs or 0)))

    def shift(self) -> tuple[int, int] | None:
        """(start, n) of the positions to drop now, because the context is full and the call wants it shifted."""
        if self.position < self.limits.n_ctx or self._ending or self._stop_reason():
            return None
        start, n = self._shiftable()
        self._n_dropped += n
        self.result.shifted = True
        return start, n

    def idle_reason(self) -> FinishReason | None:
        """Why this call has nothing to decode and nothing to sample, if so."""
        n_decoded = sum(self.result.prompt_chunks)
        return self._stop_reason(position=self.n_prefix) if n_decoded == 0 else None

    def stop_reason(self) -> FinishReason | None:
        """Why the call ends without a sample once its history is decoded, if so."""
        return self._stop_reason(position=self._n_history)

    def advance(self, logits: NDArray[np.float32]) -> list[Sampled]:
        """All of the history is decoded: stop, or sample what to decode next. The tokens to show."""
        reason = self._ending or self._stop_reason()
        if reason is not None:
            return self.finish(reason)
        if self.result.sampled and self._is_late():
            return self.finish("time")
        budget = self.request.budget
        if budget is not None and not budget.admit_sample(self.position):
            return self.finish("instructions")
        n_draws = self.sampler.n_draws
        token = self._sample(logits)
        n_sampled = len(self.result.sampled) + 1
        eog = self.vocabulary.is_eog(token)
        ending: FinishReason | None = "stop" if eog or self._is_end(token) else None
        if n_sampled == self.request.n_predict or (ending is not None and not self.request.decodes_end):
            self.finish(ending or "length")
        elif budget is not None and not budget.admit_decode(self.position):
            # Not decoded and not shown: the next call draws the very same token again.
            return self.finish("instructions")
        else:
            self._extend([token], True)
            self._ending = ending
        self.result.eog = eog
        self.result.sampled.append(token)
        self.result.redrawn.append(self.sampler.n_draws - n_draws > 1)
        if self.request.n_logprobs is None:
            return [Sampled(token)]
        likely = self.sampler.logprobs if self.request.probs_after else partial(logprobs, logits)
        details = Sampled(token, *likely(token, self.request.n_logprobs))
        self.result.details.append(details)
        return [details]

    def start_clock(self) -> None:
        """The call's time begins."""
        if self.request.seconds is not None:
            self._due = perf_counter() + self.request.seconds

    def end_in_time(self) -> bool:
        """Has its time passed while its prompt goes in? Then it ends here, with what is decoded by now."""
        if self.result.sampled or not (self._is_late() and self.n_prefix < self.n_done < self._n_history):
            return False
        self._n_history = self._n_given = self.n_done
        left, batches = self.n_done - self.n_prefix, list[tuple[int, int]]()
        for n in self.result.prompt_chunks:
            if left > 0:
                batches.append((self.n_done - left, min(n, left)))
            left -= n
        self.result.prompt_chunks = [n for _, n in batches]
        if self.request.budget is not None:
            self.request.budget.cut_prompt(batches)
        self.finish("time")
        return True

    @property
    def ends_before_a_draw(self) -> bool:
        """Has it ended with its history decoded and no token drawn that the next call must draw again?"""
        has_ended = self.finished in ("instructions", "length", "time") and self.is_decoded
        return has_ended and self.sampler.n_draws == self.result.n_draws

    @property
    def n_more(self) -> int:
        """How many tokens, beyond the one to decode next, the call may sample and decode, the budget aside."""
        request, n = self.request, self.limits.n_ctx - self.position - 1
        if request.n_predict >= 0:
            n = min(n, request.n_predict - len(self.result.sampled) - 1)
        if request.max_decode is not None:
            n = min(n, request.max_decode - self._n_decoded)
        return max(0, n)

    @property
    def _n_decoded(self) -> int:
        """Of this call's tokens, those that are decoded, or are to be."""
        return sum(self.result.prompt_chunks) + self._n_history - self._n_given

    @property
    def n_given(self) -> int:
        """Tokens that the call was given: those of the prefix, and of the prompt as far as it was granted."""
        return self._n_given

    def rest(self) -> Tokens:
        """Of the prompt, what lies beyond the tokens that are decoded."""
        return self._wanted[0][self.n_done :]

    def _is_late(self) -> bool:
        return self._due is not None and perf_counter() >= self._due

    def finish(self, reason: FinishReason) -> list[Sampled]:
        result = self.result
        self.finished = result.finish = reason
        result.n_generated = self._n_history - self._n_given
        result.n_draws = self.request.n_draws + result.n_generated + sum(result.redrawn[: result.n_generated])
        return []

    # -- rules

    def _plan_prompt(self) -> None:
        """Grant prompt tokens, in logical batches, as far as token limit, context and budget allow."""
        request, limits = self.request, self.limits
        n, n_all = 0, len(request.prompt)
        allowed = min(n_all, limits.n_ctx - self.n_prefix)
        if request.max_decode is not None:
            allowed = min(allowed, request.max_decode)
        if n_all > allowed:
            self._prompt_cut = "length"
        while n < allowed:
            granted = wanted = min(limits.n_batch, allowed - n)
            if request.budget is not None:
                granted = max(0, min(wanted, request.budget.admit_prompt(self.n_prefix + n, wanted)))
            if granted:
                self.result.prompt_chunks.append(granted)
                n += granted
            if granted < wanted:
                self._prompt_cut = "instructions"
                break
        self._extend(request.prompt[:n], False)

    def _stop_reason(self, position: int | None = None) -> FinishReason | None:
        """Why nothing may be sampled now, the budget aside."""
        request = self.request
        if self._prompt_cut is not None:
            return self._prompt_cut
        if request.max_decode is not None and self._n_decoded >= request.max_decode:
            return "length"
        if 0 <= request.n_predict <= len(self.result.sampled):
            return "length"
        position = self.position if position is None else position
        if position >= self.limits.n_ctx and self._shiftable()[1] <= 0:
            return "length"
        return None

    def _shiftable(self) -> tuple[int, int]:
        """Positions that a shift would drop: half of what follows the kept ones; n 0 if it may not."""
        request, limits = self.request, self.limits
        if not (request.context_shift and limits.can_shift) or request.n_predict == -2:
            return 0, 0
        n_prompt = self.n_prefix + len(request.prompt)
        keep = request.n_keep
        keep = n_prompt if not 0 <= keep <= n_prompt else keep + limits.add_bos
        return keep, (limits.n_ctx - keep) // 2

    def _sample(self, logits: NDArray[np.float32]) -> int:
        started = perf_counter()
        if not self.has_begun:
            self.has_begun = True
            self.sampler.begin(self.history, self._n_continued())
        token = self.sampler.sample(logits, self._n_history)
        self.sampler.accept(token)
        self.result.sample_seconds += perf_counter() - started
        return token

    def _n_continued(self) -> int:
        """Tokens before this call that belong to the answer which it goes on with."""
        request = self.request
        if request.n_continued is not None:
            return request.n_continued
        return 0 if len(request.prompt) else n_last_generated(request.prefix_generated)

    def _is_end(self, token: int) -> bool:
        ends = self.request.ends
        return (ends is not None and ends(token)) or self._is_reverse_prompt(token)

    def _is_reverse_prompt(self, token: int) -> bool:
        """Does the text of the chat now end with a reverse prompt, or nearly so?"""
        reverse = [text.encode("utf-8", "replace") for text in self.request.reverse_prompts if text]
        if not reverse:
            return False
        recent = [*self.history[1 - _REVERSE_WINDOW :].tolist(), token]
        text = b"".join(self.vocabulary.piece(token, True) for token in recent)
        return any(stop in text[-len(stop) - _REVERSE_SLACK :] for stop in reverse)
