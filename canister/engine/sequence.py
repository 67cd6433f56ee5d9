"""The tokens of one call: which it needs decoded next, when it samples, and why it stops.

Plain Python: tokens and logits come in, tokens go out, so that every rule of a call is tested without a model.

    history     prefix, then the prompt tokens granted to this call, then what was sampled and is to be decoded
    generated   which of them were generated, and so are decoded one by one; the others are prompt
    n_done      how many of them are decoded, that is, in the KV memory
    position    where the next one goes: n_done, less what context shifts have dropped
    starts      with which prompt tokens a decode began, so that they are decoded so again; unused unless `repeats_cut`
    n_cut       of how many tokens that is settled; beyond it a prompt is cut as suits the moment
"""

from __future__ import annotations

from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from canister.engine.request import (
    FinishReason,
    Flags,
    GenerateRequest,
    GenerateResult,
    Sampled,
    Tokens,
    boundaries,
    last_boundary,
    n_common,
    n_last_generated,
)
from canister.engine.sampling.logprobs import logprobs
from canister.engine.sequence_context import ContextLimits, TokenSampler, Vocabulary

_REVERSE_WINDOW = 32  # tokens in which a reverse prompt is looked for, as in llama-completion
_REVERSE_SLACK = 2  # bytes that may follow it: it may be tokenized together with what follows

_ROOM = 64  # tokens that may be sampled before the history is copied to a larger place


class Sequence:
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
        self.request = request
        self.limits = limits
        self.vocabulary = vocabulary
        self.sampler = sampler
        self.result = GenerateResult("error")
        self.finished: FinishReason | None = None
        self.n_prefix = len(request.prefix)
        self._n_history = 0
        self._tokens: Tokens = np.empty(self.n_prefix + len(request.prompt) + _ROOM, np.int32)
        self._flags: Flags = np.empty(len(self._tokens), np.bool_)
        self._starts: Flags = np.zeros(len(self._tokens), np.bool_)
        self._extend(request.prefix, request.prefix_generated)
        if limits.repeats_cut and request.prefix_starts is not None:
            self._starts[: self.n_prefix] = request.prefix_starts
        self.n_cut = self.n_prefix
        if limits.uses_whole and request.n_whole is not None:
            self.n_cut = request.n_whole
        self._wanted: tuple[Tokens, Flags] = request.prefix, request.prefix_generated
        if len(request.prompt):
            flags = np.zeros(len(request.prompt), np.bool_)
            self._wanted = (
                np.concatenate((request.prefix, request.prompt)),
                np.concatenate((request.prefix_generated, flags)),
            )
        self.n_done = 0
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
    def history(self) -> Tokens:
        return self._tokens[: self._n_history]

    @property
    def generated(self) -> Flags:
        return self._flags[: self._n_history]

    @property
    def position(self) -> int:
        return self.n_done - self._n_dropped

    @property
    def is_decoded(self) -> bool:
        return self.n_done == self._n_history

    @property
    def is_last(self) -> bool:
        """Is the token to decode next the last one?"""
        return self.n_done + 1 == self._n_history

    @property
    def next_token(self) -> int:
        """The token to decode next, if not all are decoded."""
        return int(self._tokens[self.n_done])

    @property
    def wants_row(self) -> bool:
        """The next token was generated, and is decoded alone; else it is prompt, and goes in chunks."""
        return bool(self._flags[self.n_done]) if not self.is_decoded else True

    @property
    def n_prompt(self) -> int:
        """Tokens to decode in chunks before the next one that was generated."""
        flags = self.generated[self.n_done :]
        return int(flags.argmax()) if flags.any() else len(flags)

    def chunk(self, n_max: int, n_most: int) -> Tokens:
        """The next prompt tokens, at most n_max; never such that a lonely one would be left over.

        A prompt token that is decoded alone belongs to another class of kernels than its neighbours
        (spec/engine.md §4), so chunks are of two and more wherever there are two. Where a cut is repeated, it says how
        many they are, within n_most.
        """
        start = self.n_done
        if self.limits.repeats_cut and start < self.n_cut:
            ends = boundaries(self.generated[start : self.n_cut], self._starts[start : self.n_cut])
            return self.history[start : start + min(1 + int(ends[1:].argmax()), n_most)]
        return self.history[start : start + self._n_chunk(start, min(n_max, n_most))]

    def _n_chunk(self, start: int, n_max: int) -> int:
        n_max = max(n_max, 3)
        flags = self.generated[start : start + n_max + 2]
        n = int(flags.argmax()) if flags.any() else len(flags)
        return n_max - 1 if n == n_max + 1 else min(n, n_max)

    @property
    def wanted(self) -> tuple[Tokens, Flags]:
        """Before anything is sampled: the prefix and all of the prompt, granted to this call or not; and the flags."""
        return self._wanted

    def decoded(self, n: int) -> None:
        """The next n tokens are, together if they are prompt."""
        if self.limits.repeats_cut:
            self._starts[self.n_done] = not self._flags[self.n_done]
            self.n_cut = max(self.n_cut, self.n_done + n)
        self.n_done += n

    def n_common(self, tokens: Tokens, generated: Flags, starts: Flags) -> int:
        """Of how many leading tokens of these the KV rows are as this call wants them.

        They agree in themselves, in which were generated, and, where the cut is repeated, in how the prefix was cut.
        """
        n = n_common(*self._wanted, tokens, generated)
        if not self.limits.repeats_cut:
            return n
        theirs = boundaries(generated, starts)
        if self.limits.uses_whole:
            n = min(n, self._n_history)
            mine, n_compared = self._cut_alone(), n + 1
        else:  # both may end within a decode
            mine = boundaries(self.generated[: self.n_cut], self._starts[: self.n_cut])[:-1]
            n_compared = min(n, len(mine))
        differ = mine[:n_compared] != theirs[:n_compared]
        if differ.any():
            return last_boundary(theirs, int(differ.argmax()) - 1)
        return last_boundary(theirs, n) if self.limits.uses_whole else n

    def _cut_alone(self) -> Flags:
        """The boundaries of all decodes: those that are settled, and those of a prompt that nobody disturbs.

        Where states are gone after a restart, one that is cut otherwise would make a difference as long as it is there.
        """
        starts, at = self._starts[: self._n_history].copy(), self.n_cut
        while at < self._n_history:
            starts[at] = True
            at += self._n_chunk(at, self.limits.n_chunk)
        return boundaries(self.generated, starts)

    def use(self, starts: Flags, n: int) -> None:
        """The first n tokens were decoded by another call, so cut."""
        n = min(n, self._n_history)
        if self.limits.repeats_cut and n > self.n_cut:
            self._starts[self.n_cut : n] = starts[self.n_cut : n]
            self.n_cut = n

    def begun(self, n: int) -> int:
        """Where the decode began that gave token n - 1 its logits, where the cut is repeated; else at that token."""
        return self._last_boundary(n - 1) if self.limits.repeats_cut else n - 1

    def whole(self, n: int) -> int:
        """As many of the first n tokens as can be kept when the others go."""
        return self._last_boundary(n) if self.limits.uses_whole else n

    def _last_boundary(self, n: int) -> int:
        return last_boundary(boundaries(self.generated[: self.n_cut], self._starts[: self.n_cut]), n)

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
    def known(self) -> Tokens:
        """Generated tokens behind the next one, which are decoded anew."""
        flags = self.generated[self.n_done + 1 :]
        n = len(flags) if flags.all() else int(flags.argmin())
        return self.history[self.n_done + 1 : self.n_done + 1 + n]

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

    def held(self) -> tuple[Tokens, Flags, Flags]:
        """The tokens in the KV memory, unless shifted, and how they were decoded: generated, starts."""
        n = self.n_done
        return self._tokens[:n], self._flags[:n], self._starts[:n]

    def _extend(self, tokens: Tokens | list[int], generated: Flags | bool) -> None:
        first, self._n_history = self._n_history, self._n_history + len(tokens)
        if self._n_history > len(self._tokens):
            n_more = len(self._tokens) // 2 + len(tokens)
            self._tokens = np.concatenate([self._tokens, np.empty(n_more, np.int32)])
            self._flags = np.concatenate([self._flags, np.empty(n_more, np.bool_)])
            self._starts = np.concatenate([self._starts, np.zeros(n_more, np.bool_)])
        self._tokens[first : self._n_history] = tokens
        self._flags[first : self._n_history] = generated

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
