"""Finds by trial how many tokens fit into one update call, as users of the Internet Computer have to.

    run_update -p <prompt>     until the prompt is in: its cache is the state that every trial starts from
    estimate_run -p ""         the prediction
    copy_prompt_cache          that state, for one trial
    set_max_tokens m
    run_update -p ""           decodes m tokens, or traps with IC0522

The canister must trap at its limit (`--budget-policy trap`). Limits and caches are put back. Nothing is printed here.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from canister.api.records import (
    CopyPromptCacheInputRecord,
    EstimateInput,
    InputRecord,
    MaxTokensRecord,
    RunOutputRecord,
)
from canister.client.errors import ClientError, Rejected
from canister.client.methods import MethodCalls

TRAPPED = "IC0522"
Fits = Callable[[int], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Probed:
    """most_tokens: the most that one call decodes after `cached_tokens`. traps_at: the max_tokens that traps.

    traps_at None: no call trapped, since the context was full before. n_trials: calls that were made.
    """

    cached_tokens: int
    most_tokens: int
    traps_at: int | None
    predicted_most_tokens: int
    predicted_traps_at: int | None
    n_trials: int


class DoesNotTrap(ClientError):
    """The canister ends a call before its limit instead of failing it."""


class Probe:
    """Trials on one canister. flags: llama.cpp flags of every call, for instance --repeat-penalty."""

    def __init__(self, canister: MethodCalls, *, flags: Sequence[str] = ()) -> None:
        self._canister = canister
        self._flags = tuple(flags)
        self._before = MaxTokensRecord(max_tokens_update=0, max_tokens_query=0)
        self._n_trials = 0
        self._is_full = False

    async def find(self, prompt: str) -> Probed:
        """Find the numbers. Raises ClientError."""
        start, scratch = (f"probe-{secrets.token_hex(8)}" for _ in range(2))
        async with self._cleaned_up(start, scratch):
            n_cached = await self._take_in(prompt, start)
            predicted = await self._predict(start)
            # Where the prediction is right, two trials prove it.
            most = await largest(lambda m: self._trial(start, scratch, m), max(1, predicted))
            n_ctx = n_cached + most if self._is_full else None
        return Probed(
            cached_tokens=n_cached,
            most_tokens=most,
            traps_at=None if n_ctx else most + 1,
            predicted_most_tokens=predicted,
            predicted_traps_at=None if n_ctx == n_cached + predicted else predicted + 1,
            n_trials=self._n_trials,
        )

    async def _predict(self, cache: str) -> int:
        """The most tokens that one call decodes, as the canister itself predicts."""
        arg = EstimateInput(args=["--prompt-cache", cache, *self._flags, "-p", ""])
        estimate = (await self._canister.call("estimate_run", arg)).value
        return int(estimate.max_generate)

    @contextlib.asynccontextmanager
    async def _cleaned_up(self, *caches: str) -> AsyncGenerator[None]:
        self._before = (await self._canister.call("get_max_tokens")).value
        try:
            yield
        finally:
            await self._canister.call("set_max_tokens", self._before)
            for cache in caches:
                await self._canister.call("remove_prompt_cache", InputRecord(args=["--prompt-cache", cache]))

    async def _take_in(self, prompt: str, cache: str) -> int:
        """Decode the prompt, in the largest calls that fit. Returns its number of tokens."""
        m = 1
        while True:
            try:
                record = await self._run(cache, m, prompt, "-n", "1")
            except Rejected as error:
                if error.error_code != TRAPPED or m == 1:
                    raise
                m = (m + 1) // 2
                continue
            if not record.n_prompt_tokens_remaining:
                return record.n_prompt_tokens or 0
            if not record.n_prompt_tokens_decoded:
                raise DoesNotTrap("The canister takes no more of the prompt. Is its instruction limit too small?")
            m *= 2

    async def _trial(self, start: str, scratch: str, m: int) -> bool:
        """Does a call that decodes m tokens fit?"""
        await self._canister.call("copy_prompt_cache", CopyPromptCacheInputRecord(**{"from": start, "to": scratch}))
        self._n_trials += 1
        try:
            n_generated = (await self._run(scratch, m, "")).n_tokens_generated or 0
        except Rejected as error:
            if error.error_code == TRAPPED:
                return False
            raise
        if n_generated < m:
            # It ended early. Is the context full, or does the canister not let it trap?
            if (await self._run(scratch, 1, "")).n_tokens_generated:
                raise DoesNotTrap(
                    f"A call that may decode {m} tokens ended after {n_generated} instead of trapping. Start the "
                    "server with --budget-policy trap to find the number that traps."
                )
            self._is_full = True
        return n_generated == m

    async def _run(self, cache: str, m: int, prompt: str, *args: str) -> RunOutputRecord:
        limits = MaxTokensRecord(max_tokens_update=m, max_tokens_query=self._before.max_tokens_query)
        await self._canister.call("set_max_tokens", limits)
        # --ignore-eos: the model must not stop before the limit does.
        flags = ("--prompt-cache", cache, "--prompt-cache-all", "--ignore-eos", "--no-escape", *self._flags)
        record = (await self._canister.call("run_update", InputRecord(args=[*flags, "-p", prompt, *args]))).value
        assert isinstance(record, RunOutputRecord)
        return record


async def largest(fits: Fits, guess: int) -> int:
    """The largest n that fits, 0 if none, trying `guess` first. Below a number that fits every number fits, and some n
    does not.
    """
    low, high, step = 0, guess, 1
    if await fits(guess):
        low, high = guess, guess + 1
        while await fits(high):
            step *= 2
            low, high = high, high + step
    else:
        low = max(0, high - step)
        while low > 0 and not await fits(low):
            step *= 2
            low, high = max(0, low - step), low
    while high - low > 1:
        middle = (low + high) // 2
        if await fits(middle):
            low = middle
        else:
            high = middle
    return low
