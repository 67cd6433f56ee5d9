"""A conversation, as one call continues it: open → generate (prefetch, the engine decodes, metered) → commit.

The tokens of a cache are the truth. Its KV rows are only a cache: used as far as they are sound and fit, and otherwise
computed again. Which caches can be used is the business of sidecars.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np

from canister.defaults import PROMPT_MARGIN_TOKENS
from canister.engine.kv.slots import MIN_SHARED, PUBLISHED
from canister.engine.request import GenerateRequest, boundaries, common_prefix, last_boundary, n_last_generated
from canister.engine.told_calls import words_of
from canister.errors import BadRequest, CanisterError
from canister.handlers.sidecars import usable_cache, write_sidecar
from canister.ic.receipts.record import ChatPart
from canister.metering.meter import CallMeter
from canister.runtime.receipts import Decoded, hashes_of
from canister.state.prompt_caches import Contents
from canister.store.cache_paths import sessions_of
from canister.store.container import CacheHeader
from canister.store.container_records import usual_starts
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.engine.request import Ahead, Budget, Flags, GenerateResult, KvSegment, Sampled, Tokens
    from canister.flags.params import SamplingParams
    from canister.runtime.call import Call
    from canister.state.prompt_caches import OpenCache

log = get_logger(__name__)

LONG_PROMPT_CHARACTERS = 4096  # to be tokenized beside the event loop

NO_TOKENS: Tokens = np.empty(0, np.int32)
NO_FLAGS: Flags = np.empty(0, np.bool_)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a call does with a conversation; fields as those of GenerateRequest. keeps: the cache is written.

    n_draws, n_continued: None: as the cache says.
    """

    sampling: SamplingParams
    n_predict: int
    max_decode: int | None
    keeps: bool
    reverse_prompts: tuple[str, ...] = ()
    ends: Callable[[int], bool] | None = None
    decodes_end: bool = True
    context_shift: bool = False
    n_keep: int = 0
    n_draws: int | None = None
    n_continued: int | None = None
    n_logprobs: int | None = None
    probs_after: bool = False
    n_prompt_logprobs: int | None = None
    seconds: float | None = None
    ahead: Ahead | None = None
    on_tokens: Callable[[list[Sampled]], None] | None = None

    @property
    def is_penalized(self) -> bool:
        return self.sampling.repeat_penalty != 1.0


@dataclass(frozen=True, slots=True)
class CachedConversation:
    """What is known of a chat when a call begins, and what the call continues with.

    tokens: those in the cache, empty for a cold start. generated: which of them were generated, not prompt.
    starts: with which prompt tokens a decode began, for engines that repeat the cut; otherwise nothing is marked.
    redrawn: which of the generated tokens were drawn twice.
    seed: kept with the cache since the chat's first call. cache: the container behind it, None for a cold start.
    prompt: P, the tokens of the whole prompt. n_cached: how many of them the cache has.
    """

    call: Call
    engine: Engine
    path: str | None
    tokens: Tokens
    generated: Flags
    starts: Flags
    redrawn: Flags
    seed: int
    cache: OpenCache | None
    prompt: Tokens
    n_cached: int

    @classmethod
    async def open(
        cls,
        call: Call,
        engine: Engine,
        path: str | None,
        prompt: str | Tokens,
        *,
        seed: int | None,
        n_most: int | None = None,
    ) -> Self:
        """The chat in the cache at `path`; a cold start without a path, or when the cache cannot be used.

        prompt: P; an empty text continues where the cache ends. seed: None: the chat's own. n_most: the most tokens of
        P to take from the cache; None: all.
        """
        cache = await usable_cache(call, engine, path) if path is not None else None
        if cache is None:
            tokens, generated, starts, redrawn = NO_TOKENS, NO_FLAGS, NO_FLAGS, NO_FLAGS
            seed = call.seed_of_chance() if seed is None else seed
        else:
            container = cache.container
            tokens, generated, starts = container.tokens, container.generated, _cut(engine, cache)
            redrawn = container.redrawn
            seed = container.header.seed if seed is None else seed
        if isinstance(prompt, str):
            prompt = tokens if not prompt and len(tokens) else await _prompt_tokens(call, engine, path, prompt)
        n_cached = common_prefix(prompt, tokens)
        if n_most is not None:
            n_cached = min(n_cached, n_most)
        return cls(call, engine, path, tokens, generated, starts, redrawn, seed, cache, prompt, n_cached)

    def meter(self, limit: int | None, *, writes: bool, penalized: bool) -> CallMeter:
        """The meter of the call. The arguments are those of CallMeter."""
        return CallMeter(
            self.call.canister.model.cost_model_of(self.engine),
            limit=limit,
            policy=self.call.canister.settings.budget_policy,
            loaded=len(self.tokens),
            reused=self.n_cached,
            prompt=len(self.prompt) - self.n_cached,
            writes=writes,
            penalized=penalized,
        )

    async def prefetch(self, *, own_only: bool = False) -> None:
        """Read what a run can start from into the engine's memory, if it is not at hand there.

        That is the run's own container, and, where the prompt goes beyond that, the caller's container or the published
        one that begins most like the prompt. own_only: no others.
        """
        engine, caches, prompt, n_cached = self.engine, self.call.canister.caches, self.prompt, self.n_cached
        prefetcher, caller, path = engine.prefetcher, self.call.caller, self.path
        flags = np.zeros(len(prompt), np.bool_)
        flags[:n_cached] = self.generated[:n_cached]
        n_own = prefetcher.n_own(path, prompt, flags)
        if n_own >= n_cached and n_own + MIN_SHARED > len(prompt):
            return
        n_near = prefetcher.n_at_hand(caller, prompt, flags)
        own = self.cache
        wants_own = own is not None and n_cached >= n_near + MIN_SHARED and own.fits(engine.info)
        n_least = (n_cached if wants_own else n_near) + MIN_SHARED
        asked = (caller, PUBLISHED) if n_cached < len(prompt) >= n_least and not own_only else ()
        others = [each for each in asked if caches.may_have(sessions_of(each), prompt, flags, n_least)]
        if not (wants_own or others) or not prefetcher.has_room(n_near + MIN_SHARED):
            return

        def read() -> None:
            if wants_own and path is not None and own is not None:
                goes_on = n_cached == len(prompt)  # otherwise the next logits that count are those of the prompt
                marks = prompt[:n_cached], flags[:n_cached], self.starts[:n_cached]
                prefetcher.park(path, caller, *marks, caches.segments_into(own, prefetcher.take), with_logits=goes_on)
            best, n_best, whose = None, 0, caller
            for each in others:
                found = caches.closest(sessions_of(each), engine.info, prompt, flags, n_least=max(n_least, n_best + 1))
                if found is not None:
                    best, n_best, whose = *found, each
            if best is not None:
                marks = prompt[:n_best], flags[:n_best], _cut(engine, best)[:n_best]
                prefetcher.park(best.info.path, whose, *marks, caches.segments_into(best, prefetcher.take))

        try:
            await asyncio.to_thread(read)
        except (CanisterError, OSError) as error:
            log.info("stored KV rows could not be read", path=path, reason=str(error))

    async def generate(self, options: RunOptions) -> GenerateResult:
        """Let the engine work within the limits, and meter it. Raises if the call took too much."""
        call = self.call
        meter = call.meter = self.meter(call.limit, writes=options.keeps, penalized=options.is_penalized)
        is_full = len(self.prompt) >= self.engine.info.n_ctx
        decodes = self.n_cached < len(self.prompt) or (options.n_predict != 0 and not is_full)
        if meter.policy == "yield" and (decodes or call.is_over_limit()):
            meter.check_first_step()
        await self.prefetch(own_only=options.n_prompt_logprobs is not None)
        n_draws = self._n_draws() if options.n_draws is None else options.n_draws
        loop, is_receipted = asyncio.get_running_loop(), call.canister.settings.receipts != "off"
        made: list[bytes] = []

        def words_before() -> bytes:
            if not made:
                made.append(self._words())
            return made[0]

        if is_receipted:  # what is known by now is made while the engine decodes
            loop.call_soon(words_before)
            loop.call_soon(call.encode_argument)
        result = await self.engine.generate(self._request(options, meter, n_draws))
        call.check_limit()
        if is_receipted:
            call.decoded = self._told(options, meter, result, words_before(), n_draws)
        if call.state.log_on:
            # The loop writes this line when the commit has been handed over: not next, but after what is next.
            loop.call_soon(
                loop.call_soon,
                partial(
                    log.info,
                    "run",
                    canister=call.canister.name,
                    method=call.method,
                    cached=self.n_cached,
                    ingested=result.n_prompt_decoded,
                    generated=result.n_generated,
                    finish=result.finish,
                    instructions=meter.cost.total,
                ),
            )
        return result

    def _request(self, options: RunOptions, budget: Budget, n_draws: int) -> GenerateRequest:
        n_cached = self.n_cached
        return GenerateRequest(
            key=self.path,
            caller=self.call.caller,
            prefix=self.tokens[:n_cached],
            prefix_generated=self.generated[:n_cached],
            prompt=self.prompt[n_cached:],
            sampling=options.sampling,
            seed=self.seed,
            n_draws=n_draws,
            n_continued=options.n_continued,
            max_decode=options.max_decode,
            n_predict=options.n_predict,
            reverse_prompts=options.reverse_prompts,
            ends=options.ends,
            decodes_end=options.decodes_end,
            context_shift=options.context_shift,
            n_keep=options.n_keep,
            restore=self._stored_rows,
            n_stored=self._n_stored_rows,
            prefix_starts=self.starts[:n_cached],
            n_whole=self._n_whole() if self.engine.info.policy.repeats_cut else None,
            budget=budget,
            keep=options.keeps,
            want_rows=options.keeps,
            n_logprobs=options.n_logprobs,
            probs_after=options.probs_after,
            n_prompt_logprobs=options.n_prompt_logprobs,
            seconds=options.seconds,
            ahead=options.ahead,
            on_tokens=options.on_tokens,
        )

    def decoded(self, result: GenerateResult) -> Tokens:
        """The tokens that the call has decoded, prompt and answer."""
        of_prompt = self.prompt[self.n_cached : self.n_cached + result.n_prompt_decoded]
        return np.concatenate([of_prompt, np.array(result.sampled[: result.n_generated], np.int32)])

    async def commit(self, result: GenerateResult) -> None:
        """Add what was decoded to the cache, in the call's unit of work, which dispatch commits."""
        assert self.path is not None
        work, engine, cache, n_cached = self.call.work, self.engine, self.cache, self.n_cached
        caches, added = self.call.canister.caches, self._added(result)
        is_cut_so = result.starts is None or np.array_equal(result.starts[:n_cached], self.starts[:n_cached])
        if cache is not None and cache.can_grow and result.rows_first >= n_cached and is_cut_so:
            caches.append(work, cache, n_cached, added)
        else:
            seed = self.seed if cache is None else cache.container.header.seed
            header = CacheHeader(engine.info.model_id, seed, engine.info.kv_layout)
            await asyncio.to_thread(caches.write, work, self.path, header, cache, self._contents(result, added))
        write_sidecar(self.call, engine, self.path)

    def _added(self, result: GenerateResult) -> Contents:
        """What the cache gets behind the reused tokens, if it is kept."""
        n_cached, n_prompt = self.n_cached, result.n_prompt_decoded
        decoded = self.decoded(result)
        if result.shifted:  # the KV memory no longer fits the tokens, so the cache keeps only the prompt
            decoded = decoded[:n_prompt]
        flags = np.arange(len(decoded)) >= n_prompt
        starts = usual_starts(flags) if result.starts is None else result.starts[n_cached : n_cached + len(decoded)]
        redrawn = np.array([False] * n_prompt + result.redrawn[: len(decoded) - n_prompt], np.bool_)
        return Contents(decoded, flags, starts, redrawn, result.rows, result.rows_first)

    def _contents(self, result: GenerateResult, added: Contents) -> Contents:
        """What the cache holds then.

        Where decodes began, for an engine that does not repeat the cut, is as the cache has it. So what is marked
        depends on the calls, and not on how their container came to be written.
        """
        own = slice(self.n_cached)
        marked = NO_FLAGS if self.cache is None else self.cache.container.starts
        return Contents(
            np.concatenate([self.tokens[own], added.tokens]),
            np.concatenate([self.generated[own], added.generated]),
            np.concatenate([(marked if result.starts is None else result.starts)[own], added.starts]),
            np.concatenate([self.redrawn[own], added.redrawn]),
            added.rows,
            added.rows_first,
        )

    def _words(self) -> bytes:
        """The tokens of the cache, as receipts have them."""
        starts = NO_FLAGS if self.cache is None else self.cache.container.starts
        return words_of(self.tokens, self.generated, starts, self.redrawn)

    def _words_behind(self, before: bytes, result: GenerateResult) -> bytes:
        """The tokens behind the call, as receipts have them. before: those of the cache."""
        added, own, kept = self._added(result), slice(self.n_cached), before[: 4 * self.n_cached]
        if result.starts is not None:
            kept = words_of(self.tokens[own], self.generated[own], result.starts[own], self.redrawn[own])
        return kept + words_of(added.tokens, added.generated, added.starts, added.redrawn)

    def _told(
        self, options: RunOptions, meter: CallMeter, result: GenerateResult, before: bytes, n_draws: int
    ) -> Decoded:
        """What the call's receipt tells of it. before: the words of the cache."""
        work, sampled, n_generated = meter.work, result.sampled, result.n_generated
        after = self._words_behind(before, result)
        n_own = n_last_generated(self.generated[: self.n_cached]) if self.n_cached == len(self.prompt) else 0
        hash_before, hash_after = hashes_of(before, after, self.n_cached)
        part = ChatPart(
            "" if self.path is None else self.path.removeprefix(f"{sessions_of(self.call.caller)}/"),
            self.seed,
            work.loaded,
            work.reused,
            work.prompt,
            work.generated,
            work.sampled,
            n_draws,
            n_own if options.n_continued is None else options.n_continued,
            work.saves,
            int(sampled[-1]) if len(sampled) > n_generated else -1,
            result.shifted,
            work.penalized,
            hash_before,
            hash_after,
        )
        self.call.used_engine = self.engine
        return Decoded(part, after, options.sampling)

    def _n_draws(self) -> int:
        """How often the answer so far was drawn. An answer to a new prompt begins at 0."""
        if self.n_cached < len(self.prompt):
            return 0
        n = n_last_generated(self.generated[: self.n_cached])
        return n + int(self.redrawn[self.n_cached - n : self.n_cached].sum())

    def _n_whole(self) -> int:
        """The number of reused tokens that whole decodes gave. Later ones were decoded together with tokens that are
        not kept.
        """
        return last_boundary(boundaries(self.generated, self.starts), self.n_cached)

    def _stored_rows(self, n_tokens: int) -> list[KvSegment]:
        """KV rows of the first n tokens, as far as they are sound and fit the engine's context. Runs on the decode
        thread.
        """
        if self.cache is None or not self.cache.fits(self.engine.info):
            return []
        try:
            return self.cache.segments(n_tokens)
        except (CanisterError, OSError):
            return []  # rows that cannot be read are computed again from the tokens

    def _n_stored_rows(self) -> int:
        """How many of the reused tokens should have usable rows in the container."""
        cache = self.cache
        return cache.container.n_with_rows(self.n_cached) if cache is not None and cache.fits(self.engine.info) else 0


def _cut(engine: Engine, cache: OpenCache) -> Flags:
    starts = cache.container.starts
    return starts if engine.info.policy.repeats_cut else np.zeros_like(starts)


async def _prompt_tokens(call: Call, engine: Engine, path: str | None, prompt: str) -> Tokens:
    """The tokens of `-p`. Those of the chat's last prompt are remembered."""
    texts = call.canister.texts
    tokens = texts.prompt_tokens(engine, path, prompt)
    if tokens is not None:
        return tokens
    if len(prompt) < LONG_PROMPT_CHARACTERS:
        tokens = np.asarray(engine.tokenize(prompt, add_bos=True), np.int32)
    else:  # some vocabularies take long
        tokens = np.asarray(await asyncio.to_thread(engine.tokenize, prompt, add_bos=True), np.int32)
    if not len(tokens):
        raise BadRequest("input is empty")
    limit = engine.info.n_ctx - PROMPT_MARGIN_TOKENS
    if len(tokens) > limit:
        raise BadRequest(
            f"prompt is too long ({len(tokens)} tokens, max {limit}): shorten it, or load the model with a larger "
            f"--ctx-size than {engine.info.n_ctx}"
        )
    texts.keep_prompt(engine, path, prompt, tokens)
    return tokens
