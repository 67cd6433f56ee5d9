"""Decodes what calls have decoded, many tokens at once, and draws each token again: is it the one that was told?

The tokens of a chat are known, so its answers go in like a prompt, and every row gives the logits for the token behind
it. That takes as long as prefilling. Rows that are decoded together may differ in their last bits from rows that were
decoded one by one, and roundings make more of that. A token that is drawn from logits which differ by no more is a near
tie. One that is not is still not proven to be forged: `Engine.generate` decides, which decodes as the server did.

How much more is measured where a token differs: the same rows with keys kept in another type differ in their last bits
too, and by a little more. Decoding single rows again behind those that were decoded together decides nothing, since
the differences are in the KV rows that they read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from canister.engine.llama import Context, Logits, Model
from canister.engine.llama_types import ContextParams
from canister.engine.near_ties import is_near_tie
from canister.engine.request import Tokens, common_prefix
from canister.engine.sampling.binding import Binding
from canister.engine.sampling.chain import ChainSampler
from canister.engine.sampling.samplers import Candidates
from canister.flags.params import SamplingParams

ROWS = 256  # of a decode; their logits are in memory at once
N_PROBED = 128  # tokens that are decoded in two ways, to measure by how much logits may differ
SAFETY = 1.25  # times what was measured
UNMEASURED = 0.25  # logits, where it cannot be measured
_OTHER_TYPE = {"f16": "f32", "bf16": "f32", "f32": "f16"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """The part of a call that drew tokens.

    history: all tokens before the first one that it drew. tokens: those that it drew, in order. redrawn: which of them
    were drawn twice. n_draws, n_continued: as in GenerateRequest. binding: of the answer, at its beginning; the replay
    closes it.
    """

    history: Tokens
    tokens: Tokens
    redrawn: Sequence[bool]
    sampling: SamplingParams
    seed: int
    n_draws: int
    n_continued: int
    binding: Binding | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """A token that another one should be. at: its number among those of the call. logit_*: of both at that place."""

    at: int
    said: int
    drawn: int
    logit_said: float
    logit_drawn: float

    @property
    def margin(self) -> float:
        """By how much the told token's logit lies below the other one's."""
        return self.logit_drawn - self.logit_said


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a call came out. n_equal: tokens that were drawn here too. n_near: that are near ties. differences: the
    others. smallest_margin: between the likeliest token and the next, over all places where the likeliest was told;
    None: there is no such place. bound: of the near ties, in logits; 0: nobody needed to know.
    """

    n_equal: int
    n_near: int
    differences: tuple[Difference, ...]
    smallest_margin: float | None
    bound: float = 0.0


class Replay:
    """A context for one conversation at a time. One thread may use it; its owner closes it."""

    def __init__(self, model: Model, params: ContextParams, n_ctx: int) -> None:
        """params: without the sizes of the batch and the number of streams. n_ctx: tokens of a conversation."""
        self._model, self._n_ctx = model, n_ctx
        n_rows = min(ROWS, params.n_cells)
        self._shape = ContextParams(
            n_streams=1,
            n_cells=params.n_cells,
            n_rows=n_rows,
            n_threads=params.n_threads,
            type_k=params.type_k,
            type_v=params.type_v,
            flash_attn=params.flash_attn,
            rope=params.rope,
            most_at_once=params.most_at_once,
            n_outputs=n_rows,
            offload_kv=params.offload_kv,
            is_offloaded=params.is_offloaded,
        )
        self._context = Context(model, self._shape, "replay")
        self._held: Tokens = np.empty(0, np.int32)
        self._bound: float | None = None
        self._probed: Tokens = self._held
        self.n_decoded = 0

    def close(self) -> None:
        self._context.close()

    def judge(self, calls: Sequence[Drawn]) -> list[Replayed]:
        """Draw the tokens of calls again. Calls whose tokens are the beginning of another's cost nothing more."""
        judges = [_Judge(self._model, call, self._n_ctx) for call in calls]
        try:
            left = sorted(judges, key=lambda judge: -judge.n_tokens)
            while left:
                longest = left[0]
                together = [judge for judge in left if judge.fits(longest)]
                if self._bound is None:
                    self._probed = longest.all[: min(N_PROBED, self._shape.n_rows)]
                self._decode(longest.all, together)
                left = [judge for judge in left if judge not in together]
            return [judge.result(self._bound or 0.0) for judge in judges]
        finally:
            for judge in judges:
                judge.close()

    def _decode(self, tokens: Tokens, judges: Sequence[_Judge]) -> None:
        """Decode tokens, and give each judge the logits of the places that it wants."""
        wanted = {place for judge in judges for place in judge.places}
        if not wanted:
            return
        kept = min(common_prefix(self._held, tokens), min(wanted))
        if not self._context.remove(0, kept):
            self._context.clear(0)
            kept = 0
        end = max(wanted) + 1
        self._held = tokens[:kept]
        for start in range(kept, end, self._shape.n_rows):
            part = tokens[start : min(start + self._shape.n_rows, end)]
            positions = range(start, start + len(part))
            places = [place for place in positions if place in wanted]
            self._context.decode([0] * len(part), positions, part, [place - start for place in places])
            self.n_decoded += len(part)
            if not places:
                continue
            rows = _Rows.of(self._context.all_logits())
            for judge in judges:
                first = max(start, judge.places.start)
                n = min(positions.stop, judge.places.stop) - first
                if n > 0:
                    judge.look(rows.part(bisect_left(places, first), n), self.bound)
        self._held = tokens[:end]

    def probe(self, tokens: Tokens) -> None:
        """Measure the bound of near ties with these tokens now, instead of when somebody needs it."""
        self._probed = tokens[: min(N_PROBED, self._shape.n_rows)]
        self.bound()

    def bound(self) -> float:
        """How far logits of rows that are decoded together may be from those of lone rows; measured once."""
        if self._bound is None:
            self._bound = self._measured_bound()
        return self._bound

    def _measured_bound(self) -> float:
        other = _OTHER_TYPE.get(self._shape.type_k)
        if other is None or len(self._probed) < 2:
            return UNMEASURED
        found = []
        for type_k in (self._shape.type_k, other):
            n = len(self._probed)
            shape = replace(self._shape, n_cells=self._shape.n_rows, type_k=type_k)
            context = Context(self._model, shape, "replay")
            try:
                context.decode([0] * n, range(n), self._probed, range(n))
                found.append(np.stack([context.logits(row).copy() for row in range(n)]))
            finally:
                context.close()
        difference = found[0] - found[1]
        difference -= difference.mean(axis=1, keepdims=True)  # what all logits have in common changes no draw
        return SAFETY * float(np.abs(difference).max())


@dataclass(frozen=True, slots=True)
class _Rows:
    """Logits of successive places. highest: of each row; margins: by how much it lies above the next one."""

    logits: Logits
    highest: NDArray[np.float32]
    margins: NDArray[np.float32]

    @classmethod
    def of(cls, logits: Logits) -> _Rows:
        rows, likeliest = np.arange(len(logits)), logits.argmax(axis=1)
        highest = logits[rows, likeliest]
        logits[rows, likeliest] = -np.inf  # for a moment: copying them would take longer than all the rest
        margins = highest - logits.max(axis=1)
        logits[rows, likeliest] = highest
        return cls(logits, highest, margins)

    def part(self, first: int, n: int) -> _Rows:
        part = slice(first, first + n)
        return _Rows(self.logits[part], self.highest[part], self.margins[part])


class _Judge:
    """Draws the tokens of one call, as far as they are the told ones."""

    def __init__(self, model: Model, call: Drawn, n_ctx: int) -> None:
        self._call = call
        self.all: Tokens = np.concatenate([call.history, call.tokens]).astype(np.int32)
        self.n_tokens = len(self.all)
        first = len(call.history) - 1
        self.places = range(first, first + len(call.tokens)) if first >= 0 else range(0)
        candidates = Candidates(model.n_vocab)
        self._sampler = ChainSampler(model, candidates, call.sampling, call.seed, call.n_draws, n_ctx, call.binding)
        if len(call.tokens):
            self._sampler.begin(call.history, call.n_continued)
        self._at = self._n_equal = self._n_near = 0
        self._differences: list[Difference] = []
        self._margin: float | None = None

    def close(self) -> None:
        self._sampler.close()

    def fits(self, longest: _Judge) -> bool:
        """Are its tokens the beginning of the other's, but for the last one, which nothing was decoded behind?"""
        n = self.n_tokens - 1
        return bool(np.array_equal(self.all[:n], longest.all[:n]))

    def look(self, rows: _Rows, bound: Callable[[], float]) -> None:
        """The logits for the next tokens. bound: as of Replay."""
        call, sampler = self._call, self._sampler
        said = call.tokens[self._at : self._at + len(rows.logits)]
        told = rows.logits[np.arange(len(said)), said]
        drawn = sampler.sample_all(rows.logits)
        for n, token in enumerate(said.tolist()):
            if self._differences and not sampler.rewinds:
                return
            n_before = sampler.n_draws
            other = sampler.sample(rows.logits[n], len(call.history) + self._at) if drawn is None else int(drawn[n])
            if other == token:
                self._n_equal += 1
                if told[n] == rows.highest[n]:
                    margin = float(rows.margins[n])
                    self._margin = margin if self._margin is None else min(margin, self._margin)
            else:
                self._look_closely(rows.logits[n].copy(), other, n_before, bound)
            if drawn is None:
                sampler.accept(token)
            self._at += 1

    def _look_closely(self, logits: Logits, drawn: int, n_before: int, bound: Callable[[], float]) -> None:
        """A token that another one is drawn instead of."""
        at, sampler = self._at, self._sampler
        said = int(self._call.tokens[at])
        if sampler.rewinds and is_near_tie(self._draw(n_before), logits, said, bound()):
            self._n_near += 1
        else:
            self._differences.append(Difference(at, said, drawn, float(logits[said]), float(logits[drawn])))
        if sampler.rewinds:
            sampler.rewind(n_before + 1 + bool(self._call.redrawn[at]))

    def _draw(self, n_before: int) -> Callable[[Logits], int]:
        def draw(logits: Logits) -> int:
            self._sampler.rewind(n_before)
            return self._sampler.sample(logits, len(self._call.history) + self._at)

        return draw

    def result(self, bound: float) -> Replayed:
        return Replayed(self._n_equal, self._n_near, tuple(self._differences), self._margin, bound)
