"""Drives an engine as a canister does: chats that keep tokens, flags and KV rows between calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from canister.engine.engine import Engine, LoadParams
from canister.engine.request import GenerateRequest, GenerateResult, KvSegment, n_last_generated
from canister.engine.thread import DecodeThread
from canister.flags.params import SamplingParams

T = TypeVar("T")

PATIENCE_SECONDS = 120  # for what takes no time unless it never comes

GREEDY = SamplingParams(temperature=0.0)
NOTHING = GenerateRequest(
    key=None,
    caller="somebody",
    prefix=np.empty(0, np.int32),
    prefix_generated=np.empty(0, np.bool_),
    prompt=np.empty(0, np.int32),
    sampling=GREEDY,
    seed=1,
)


class Driver:
    """An engine and an event loop for it; `run` runs a coroutine there."""

    def __init__(self, path: Path, *, thread: DecodeThread | None = None, **params: Any) -> None:
        self._is_closed = False
        self._runner = asyncio.Runner()
        self.engine = self.run(Engine.load(LoadParams(path, **params), thread))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def together(self, *work: Coroutine[Any, Any, T]) -> list[T]:
        async def gathered() -> list[T]:
            return await asyncio.gather(*work)

        return self.run(gathered())

    def chat(self, key: str | None = None, **defaults: Any) -> Chat:
        return Chat(self.engine, key, replace(NOTHING, **{"caller": key or "somebody", **defaults}))

    def close(self) -> None:
        """End it; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self.run(self.engine.close())
            self._runner.close()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Turnstile:
    """So many decodes of an engine begin, and the next one waits until the turnstile is opened, or left.

    What interrupts a call in between finds it at work on any machine. To be made in the engine's event loop.
    """

    def __init__(self, engine: Engine, n_decodes: int) -> None:
        self._n_left = n_decodes
        self._loop = asyncio.get_running_loop()
        self._reached, self._opened = asyncio.Event(), threading.Event()
        if n_decodes == 0:
            self._reached.set()
        self._context: Any = engine._loaded_core()._context
        self._names = [name for name in ("decode", "decode_verified", "embed") if hasattr(self._context, name)]

    def __enter__(self) -> Self:
        for name in self._names:
            setattr(self._context, name, self._passing(getattr(self._context, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        for name in self._names:
            delattr(self._context, name)

    def _passing(self, decode: Callable[..., T]) -> Callable[..., T]:
        def pass_and_decode(*arguments: Any) -> T:
            if self._n_left == 0:
                self._opened.wait()
            else:
                self._n_left -= 1
                if self._n_left == 0:
                    self._loop.call_soon_threadsafe(self._reached.set)
            return decode(*arguments)

        return pass_and_decode

    async def reached(self) -> None:
        """Wait until the last of these decodes begins."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._reached.wait()

    def open(self) -> None:
        self._opened.set()


async def cancel(task: asyncio.Future[Any]) -> None:
    """Returns when `generate` has told the engine."""
    await asyncio.sleep(0)  # a call that has not begun has nothing to roll back
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)


@dataclass
class Chat:
    """One conversation. `call` does what a run_update does, and keeps what it decoded."""

    engine: Engine
    key: str | None
    defaults: GenerateRequest
    tokens: list[int] = field(default_factory=list)
    generated: list[bool] = field(default_factory=list)
    starts: list[bool] = field(default_factory=list)
    redrawn: list[bool] = field(default_factory=list)
    segments: list[KvSegment] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)  # not decoded yet
    sampled: list[int] = field(default_factory=list)
    last: GenerateResult | None = None

    async def call(self, prompt: Sequence[int] = (), *, use_rows: bool = True, **changes: Any) -> GenerateResult:
        self.prompt += prompt
        request = replace(
            self.defaults,
            key=self.key,
            prefix=np.array(self.tokens, np.int32),
            prefix_generated=np.array(self.generated, np.bool_),
            prompt=np.array(self.prompt, np.int32),
            restore=self._restore if use_rows else None,
            n_stored=self._n_stored,
            prefix_starts=np.array(self.starts, np.bool_),
            n_draws=0 if self.prompt else self._n_draws(),
        )
        request = replace(request, **changes)
        result = await self.engine.generate(request)
        self.last = result
        if request.keep and not result.shifted:
            self._keep(result)
        self.sampled += result.sampled[: result.n_generated]
        return result

    async def answer(self, prompt: Sequence[int], n_tokens: int, cuts: Sequence[int] = (), **changes: Any) -> list[int]:
        """The first n generated tokens, through calls of at most cuts[0], cuts[1], … decoded tokens, then the rest."""
        n_before = len(self.sampled)
        limits = list(cuts)
        self.prompt += prompt
        while True:
            n_left = len(self.prompt) + n_tokens - (len(self.sampled) - n_before)
            limit = min(limits.pop(0), n_left) if limits else n_left
            result = await self.call(max_decode=limit, **changes)
            if result.finish == "stop" or len(self.sampled) - n_before >= n_tokens:
                return self.sampled[n_before:]

    def copy(self, key: str | None) -> Chat:
        """The same conversation under another name, as copy_prompt_cache makes it."""
        marks = [*self.tokens], [*self.generated], [*self.starts], [*self.redrawn]
        copy = Chat(self.engine, key, self.defaults, *marks, [*self.segments])
        copy.prompt, copy.sampled = [*self.prompt], [*self.sampled]
        return copy

    def _keep(self, result: GenerateResult) -> None:
        n = result.n_prompt_decoded
        decoded = self.prompt[:n] + result.sampled[: result.n_generated]
        self.prompt = self.prompt[n:]
        self.tokens += decoded
        self.generated += [False] * n + [True] * result.n_generated
        self.redrawn += [False] * n + result.redrawn[: result.n_generated]
        if result.starts is not None:
            self.starts = result.starts[: len(self.tokens)].tolist()
        self.starts += [False] * (len(self.tokens) - len(self.starts))
        kept, end = [], 0
        for segment in self.segments:
            if segment.first < result.rows_first:
                kept.append(replace(segment, count=min(segment.count, result.rows_first - segment.first)))
                end = kept[-1].first + kept[-1].count
        assert not result.rows or end == result.rows_first
        if result.rows:
            kept.append(KvSegment(result.rows_first, len(self.tokens) - result.rows_first, result.rows))
        self.segments = kept

    def _n_draws(self) -> int:
        n = n_last_generated(np.array(self.generated, np.bool_))
        return n + sum(self.redrawn[len(self.redrawn) - n :])

    def _n_stored(self) -> int:
        return sum(segment.count for segment in self.segments)

    def _restore(self, n: int) -> list[KvSegment]:
        live = [segment for segment in self.segments if segment.first < n]
        return [replace(segment, count=min(segment.count, n - segment.first)) for segment in live]
