"""Measures a canister for one client: the cost of cutting an answer into calls, and what a restart costs a chat.

    run_update -p <prompt> -n 0     ingestion; the chat that both ways start from
    set_max_tokens n                the whole answer in one call
    set_max_tokens 10               the same answer, ten tokens a call

Both ways take turns. Limits are put back, and the chats removed. Nothing is printed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from canister.api.records import InputRecord, MaxTokensRecord, RunOutputRecord
from canister.client.errors import ClientError, Refused, Unreachable
from canister.client.methods import MethodCalls

FLAGS = ("--temp", "0", "--ignore-eos")
READY_SECONDS = 300.0
_POLL_SECONDS = 0.05
_WORDS = ("river", "stone", "window", "letter", "garden", "silver", "morning", "paper", "winter", "music")


@dataclass(frozen=True, slots=True)
class Workload:
    """Counts are tokens, except prompt_words. rounds: how often both ways are measured."""

    prompt_words: int
    answer: int
    per_call: int
    rounds: int

    @property
    def n_calls(self) -> int:
        return self.answer // self.per_call


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians. n_prompt: tokens of the prompt. Rates are tokens per second.

    overhead_ms: what each further call adds to the answer. restore_ms: how much longer the first call of a chat takes
    after a restart than the next one; None where the server was not restarted.
    """

    n_prompt: int
    ingested: float
    uninterrupted: float
    in_calls: float
    ratio: float
    call_ms: float
    overhead_ms: float
    restore_ms: float | None = None


class TooSmall(ClientError):
    """The loaded model's context has no room for the workload."""


class Bench:
    """Measures one canister whose caller may set_max_tokens."""

    def __init__(self, canister: MethodCalls, workload: Workload) -> None:
        self._canister = canister
        self._work = workload
        self._name = f"bench-{secrets.token_hex(4)}"

    async def measure(self, restart: Callable[[], None] | None = None) -> Speed:
        """Measure everything. restart: ends the server and starts it again on the same folder. Raises ClientError."""
        ingested: list[float] = []
        whole: list[float] = []
        cut: list[float] = []
        n_prompt = 0
        async with self._limits_kept(), contextlib.AsyncExitStack() as chats:
            for number in range(self._work.rounds):
                # Begin with new words, so that no cache has the prompt.
                prompt = self._prompt(number)
                seconds: dict[bool, float] = {}
                for in_calls in (True, False) if number % 2 else (False, True):
                    name = f"{self._name}-{number}-{in_calls}"
                    chats.push_async_callback(self._remove, name)
                    await self._limit(0)
                    begun = time.perf_counter()
                    record = await self._run(name, prompt, "-n", "0")
                    n_prompt = record.n_prompt_tokens or 0
                    if not seconds:
                        ingested.append(n_prompt / (time.perf_counter() - begun))
                    seconds[in_calls] = await self._answer(name, self._work.per_call if in_calls else self._work.answer)
                whole.append(seconds[False])
                cut.append(seconds[True])
            restore = None if restart is None else await self._restore(restart, f"{self._name}-0-True")
        n_more = max(self._work.n_calls - 1, 1)
        pairs = list(zip(whole, cut, strict=True))
        return Speed(
            n_prompt=n_prompt,
            ingested=statistics.median(ingested),
            uninterrupted=self._work.answer / statistics.median(whole),
            in_calls=self._work.answer / statistics.median(cut),
            ratio=statistics.median(one / other for one, other in pairs),
            call_ms=statistics.median(cut) / self._work.n_calls * 1000,
            overhead_ms=statistics.median((other - one) / n_more for one, other in pairs) * 1000,
            restore_ms=restore,
        )

    async def _answer(self, name: str, per_call: int) -> float:
        """Seconds for the whole answer, in calls of so many tokens."""
        await self._limit(per_call)
        begun = time.perf_counter()
        for _ in range(self._work.answer // per_call):
            record = await self._run(name, "")
            if record.n_tokens_generated != per_call:
                raise TooSmall(
                    f"a call of {per_call} tokens gave {record.n_tokens_generated}: the context is full, or a call may "
                    "not take so many instructions. Load the model with a larger --ctx-size, serve it with "
                    "--instruction-limit none, or ask for fewer --tokens"
                )
        return time.perf_counter() - begun

    async def _restore(self, restart: Callable[[], None], name: str) -> float:
        """How many milliseconds longer the first call after a restart takes than the following ones."""
        restart()
        await self._until_ready()
        warm = f"{self._name}-warm"
        try:
            await self._limit(0)
            await self._run(warm, "Hello", "-n", "2")
        finally:
            await self._remove(warm)
        times = []
        for _ in range(6):
            begun = time.perf_counter()
            await self._run(name, "", "-n", "1")
            times.append(time.perf_counter() - begun)
        return max(times[0] - statistics.median(times[1:]), 0.0) * 1000

    async def _until_ready(self) -> None:
        end = time.monotonic() + READY_SECONDS
        while True:
            try:
                await self._canister.call("ready")
                return
            except (Refused, Unreachable):
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(_POLL_SECONDS)

    @contextlib.asynccontextmanager
    async def _limits_kept(self) -> AsyncGenerator[None]:
        before = (await self._canister.get_max_tokens()).value
        try:
            yield
        finally:
            await self._canister.set_max_tokens(before)

    async def _limit(self, n_tokens: int) -> None:
        limits = (await self._canister.get_max_tokens()).value
        await self._canister.set_max_tokens(
            MaxTokensRecord(max_tokens_update=n_tokens, max_tokens_query=limits.max_tokens_query)
        )

    async def _run(self, name: str, prompt: str, *flags: str) -> RunOutputRecord:
        args = ["--prompt-cache", name, "--prompt-cache-all", *FLAGS, *flags, "-p", prompt]
        return (await self._canister.run_update(InputRecord(args=args))).value

    async def _remove(self, name: str) -> None:
        with contextlib.suppress(ClientError):
            await self._canister.remove_prompt_cache(InputRecord(args=["--prompt-cache", name]))

    def _prompt(self, number: int) -> str:
        words = (_WORDS[(n * 7 + n // 10 + number) % len(_WORDS)] for n in range(self._work.prompt_words))
        return f"{self._name} {number} " + " ".join(words)
