"""The tokens of a chat as a call decodes them: which of them are decoded, and how its prompt is cut.

Plain Python, like `sequence.py`, whose rules say what becomes part of it.

    history     prefix, then the prompt tokens granted to this call, then what was sampled and is to be decoded
    generated   which of them were generated, and so are decoded one by one; the others are prompt
    n_done      how many of them are decoded, that is, in the KV memory
    starts      with which prompt tokens a decode began, so that they are decoded so again; unused unless `repeats_cut`
    n_cut       of how many tokens that is settled; beyond it a prompt is cut as suits the moment
"""

from __future__ import annotations

import numpy as np

from canister.engine.request import Flags, GenerateRequest, Tokens, boundaries, last_boundary, n_common
from canister.engine.sequence_context import ContextLimits

_ROOM = 64  # tokens that may be sampled before the history is copied to a larger place


class History:
    """Begins with the prefix of a request, none of it decoded. is_scored: its prompt gives log-probabilities."""

    def __init__(self, request: GenerateRequest, limits: ContextLimits) -> None:
        self.limits = limits
        self.n_prefix = len(request.prefix)
        self.is_scored = request.n_prompt_logprobs is not None
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

    @property
    def history(self) -> Tokens:
        return self._tokens[: self._n_history]

    @property
    def generated(self) -> Flags:
        return self._flags[: self._n_history]

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
        if self.is_scored:
            n_most = min(n_most, self._n_scored(start))
        if self.limits.repeats_cut and start < self.n_cut:
            ends = boundaries(self.generated[start : self.n_cut], self._starts[start : self.n_cut])
            return self.history[start : start + min(1 + int(ends[1:].argmax()), n_most)]
        if self.is_scored:
            return self.history[start : start + min(n_max, n_most)]
        return self.history[start : start + self._n_chunk(start, min(n_max, n_most))]

    def _n_scored(self, start: int) -> int:
        """How many tokens may go in at once, all with logits. The prompt's last one goes alone, so that its own logits
        are those of any call.
        """
        return max(1, min(self._n_history, len(self._wanted[0]) - 1) - start)

    def wants_scores(self, n: int) -> bool:
        """Are the logits of the next n tokens wanted, for what is known to follow them?"""
        return self.is_scored and self.n_done + n < len(self._wanted[0])

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
        if self.is_scored:
            n = min(n, self.n_prefix)  # of the others the logits are wanted
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

    @property
    def known(self) -> Tokens:
        """Generated tokens behind the next one, which are decoded anew."""
        flags = self.generated[self.n_done + 1 :]
        n = len(flags) if flags.all() else int(flags.argmin())
        return self.history[self.n_done + 1 : self.n_done + 1 + n]

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
