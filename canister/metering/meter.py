"""The instructions of one call while it runs: what was spent, and whether the next step still fits.

The engine asks before each step (`engine.request.Budget`) and is charged for what is admitted. Nothing is timed: a call
that does the same steps has spent the same, and its parts are those of the closed formula in `cost_model.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from canister.errors import BadRequest
from canister.metering.cost_model import SCALE, CallCost, CostModel, Work, rounded

Policy = Literal["yield", "trap"]
"""yield: the call ends before the token that would not fit. trap: the call fails as on the main network."""


class CallMeter:
    """The budget of one run_update or run_query.

    limit: instructions; None: counted, not enforced. loaded, reused: tokens read from the prompt cache, and those of
    them that are kept. prompt: tokens of the prompt still to decode. writes: the prompt cache is written at the end,
    and also when the prompt is finished. exceeded: a step was refused.
    """

    def __init__(
        self,
        model: CostModel,
        *,
        limit: int | None,
        policy: Policy = "yield",
        loaded: int = 0,
        reused: int = 0,
        prompt: int = 0,
        writes: bool = True,
        penalized: bool = False,
    ) -> None:
        self.model = model
        self.limit = limit
        self.policy = policy
        self.exceeded = False
        self._loaded = loaded
        self._reused = reused
        self._n_wanted = prompt
        self._writes = writes
        self._penalized = penalized
        self._fixed = model.clear + model.session(loaded) + model.pagein + model.base
        self._per_sample = model.sample(penalized=penalized)
        self._n_prompt = self._n_generated = self._n_sampled = 0
        self._prompt_scaled = self._generated_scaled = 0
        self._decoded_at, self._decode_cost = -1, 0

    # -- asked by the engine

    def admit_prompt(self, position: int, n_wanted: int) -> int:
        """How many of the next n_wanted prompt tokens, the first at `position`, may be decoded as one batch."""
        n = n_wanted
        if not self._prompt_fits(position, n):
            self.exceeded = True
            n = self._most_prompt(position, n) if self.policy == "yield" else 0
        self._prompt_scaled += self.model.decode(position, n)
        self._n_prompt += n
        return n

    def admit_sample(self, position: int) -> bool:
        """May the token at `position` be sampled?

        Under `yield` only if decoding it would fit as well, so that no sampled token is lost.
        """
        decode = self._decode_one(position) if self.policy == "yield" else 0
        if not self._fits(sampled=1, generated=decode, n_more=1 if decode else 0):
            self.exceeded = True
            return False
        self._n_sampled += 1
        return True

    def admit_decode(self, position: int) -> bool:
        """May the token just sampled for `position` be decoded?"""
        decode = self._decode_one(position)
        if not self._fits(generated=decode, n_more=1):
            self.exceeded = True
            return False
        self._generated_scaled += decode
        self._n_generated += 1
        return True

    def cut_prompt(self, batches: Sequence[tuple[int, int]]) -> None:
        """Of the prompt only these batches were decoded: (position, tokens) of each."""
        self._prompt_scaled = sum(self.model.decode(position, n) for position, n in batches)
        self._n_prompt = sum(n for _, n in batches)

    # -- asked by the canister

    @property
    def n_wanted(self) -> int:
        """Tokens of the prompt that were to be decoded, including those that are decoded by now."""
        return self._n_wanted

    @property
    def work(self) -> Work:
        """What was done so far."""
        return Work(
            loaded=self._loaded,
            reused=self._reused,
            prompt=self._n_prompt,
            generated=self._n_generated,
            sampled=self._n_sampled,
            saves=self._saves(self._n_prompt),
            penalized=self._penalized,
        )

    @property
    def cost(self) -> CallCost:
        """What the call would have spent if it ended now."""
        model = self.model
        return CallCost(
            clear=model.clear,
            session=model.session(self._loaded),
            pagein=model.pagein,
            prompt=rounded(self._prompt_scaled, SCALE),
            generate=rounded(self._generated_scaled, SCALE),
            sampling=self._n_sampled * self._per_sample,
            save=model.save(self._saves(self._n_prompt), self.work.end),
            base=model.base,
        )

    def check_first_step(self) -> None:
        """Refuse a call that could not decode a single token. Called once, before the call begins."""
        if self.limit is None:
            return
        first = self.model.decode(self._reused, 1)
        if self._n_wanted:
            fits = self._fits(prompt=first, n_more=1, finishes=self._n_wanted == 1)
        else:
            fits = self._fits(sampled=1, generated=first, n_more=1)
        if not fits:
            cost = self.cost
            raise BadRequest(
                f"No token fits into this call: it may take {self.limit} instructions, and {cost.fixed} are gone "
                f"before the first token (clearing the KV cache {cost.clear}, reading the prompt cache "
                f"{cost.session}, paging in the model {cost.pagein}, the rest {cost.base}). Load the model with "
                f"a smaller --ctx-size than {self.model.context.n_ctx}, or raise the instruction limit."
            )

    # -- inside

    def _decode_one(self, position: int) -> int:
        """Called twice for each token: before it is sampled, and before it is decoded."""
        if position != self._decoded_at:
            self._decoded_at, self._decode_cost = position, self.model.decode(position, 1)
        return self._decode_cost

    def _prompt_fits(self, position: int, n: int) -> bool:
        finishes = self._n_prompt + n == self._n_wanted
        return self._fits(prompt=self.model.decode(position, n), n_more=n, finishes=finishes)

    def _most_prompt(self, position: int, too_many: int) -> int:
        """The most prompt tokens that fit, when so many do not."""
        low, high = 0, too_many
        while high - low > 1:
            middle = (low + high) // 2
            if self._prompt_fits(position, middle):
                low = middle
            else:
                high = middle
        return low

    def _fits(
        self, *, prompt: int = 0, generated: int = 0, sampled: int = 0, n_more: int = 0, finishes: bool = False
    ) -> bool:
        """Would the call still be within its limit, if it did this much more and then ended?"""
        if self.limit is None:
            return True
        n_prompt = self._n_wanted if finishes else self._n_prompt
        end = self._reused + self._n_prompt + self._n_generated + n_more
        spent = rounded(self._prompt_scaled + prompt, SCALE) + rounded(self._generated_scaled + generated, SCALE)
        spent += (self._n_sampled + sampled) * self._per_sample
        return self._fixed + spent + self.model.save(self._saves(n_prompt), end) <= self.limit

    def _saves(self, n_prompt: int) -> int:
        """One at the end, and one more in the call that finishes a prompt."""
        if not self._writes:
            return 0
        return 2 if n_prompt and n_prompt == self._n_wanted else 1
