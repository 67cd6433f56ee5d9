"""generate: one bounded call of a whole answer, on tokens. Otherwise like run_update.

No door and no caller can make it, only `dispatch/answers.py`, so that rendering, tokenizing and checking happen once
and not in each call of a chain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.api.methods import Method
from canister.api.records import ApiError
from canister.engine.request import Ahead, FinishReason, Sampled, Tokens
from canister.engine.stops import Stops
from canister.errors import CacheChanged, Conflict
from canister.flags.params import SamplingParams
from canister.handlers.conversation import CachedConversation, RunOptions
from canister.handlers.prompt_cache import cache_path

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.runtime.call import Call

OnBegun = Callable[[int], None]
"""Hears how many tokens of the prompt the cache has, before anything is decoded."""

OnTokens = Callable[[list[Sampled]], None]
"""Gets tokens as they are sampled, before the call is committed. On the event loop."""

_TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class GenerateInput:
    """One call of an answer.

    model_id: of the model whose tokens these are. cache: the name of the caller's prompt cache.
    tokens: all that the conversation is to have: the prompt, n_prompt tokens, and what earlier calls decoded of the
    answer. n_done: how many of them these calls left in the cache; None: there was none yet.
    n_draws: random numbers that the answer took so far. n_predict: the most tokens to sample; -1: until the context is
    full. n_logprobs, probs_after, n_prompt_logprobs: as in GenerateRequest.
    stops: strings that end the answer. shown: special tokens that are part of its text.
    """

    model_id: bytes
    cache: str
    tokens: Tokens
    n_prompt: int
    sampling: SamplingParams
    seed: int
    n_done: int | None = None
    n_draws: int = 0
    n_predict: int = -1
    n_logprobs: int | None = None
    probs_after: bool = False
    n_prompt_logprobs: int | None = None
    stops: tuple[str, ...] = ()
    shown: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class GenerateOutput:
    """What the call did. finish: why it ended.

    n_cached: tokens that the cache had. n_prompt_decoded: of the prompt, by this call; n_prompt_remaining: after it.
    scored: the tokens behind those of the prompt that the call has decoded, if their log-probabilities are wanted.
    sampled: all, of which the first n_generated were decoded: the last of an answer is not.
    n_draws: random numbers that the answer took, as far as it is decoded.
    *_seconds: of the decodes that the call took part in.
    """

    finish: FinishReason
    n_cached: int
    n_prompt_decoded: int
    n_prompt_remaining: int
    sampled: tuple[Sampled, ...]
    n_generated: int
    n_draws: int
    prompt_seconds: float
    decode_seconds: float
    scored: tuple[Sampled, ...] = ()


GENERATE = Method(
    "generate",
    "update",
    "inference_update",
    GenerateInput,
    GenerateOutput,
    ApiError,
    "One call of a whole answer: ingest the prompt and generate, as far as the limits of a call allow.",
    "chat",
)


async def generate(
    call: Call,
    arg: GenerateInput,
    *,
    on_begun: OnBegun | None = None,
    on_tokens: OnTokens | None = None,
    ahead: Ahead | None = None,
) -> GenerateOutput:
    path = cache_path(call, arg.cache)
    engine = await call.engine()
    if engine.info.model_id != arg.model_id:
        raise Conflict("Another model was loaded while the answer was made: ask again")
    await call.lock(path)
    # The last prompt token is always decoded: so the cache marks where the answer begins.
    n_most = arg.n_prompt - 1 if arg.n_done is None else None
    chat = await CachedConversation.open(call, engine, path, arg.tokens, seed=arg.seed, n_most=n_most)
    if arg.n_done is not None and not chat.n_cached == arg.n_done == len(chat.tokens):
        raise CacheChanged(f"The prompt cache {arg.cache} was changed while an answer was made with it: ask again")
    if on_begun is not None:
        on_begun(chat.n_cached)
    call.request_bytes = _TOKEN_BYTES * (len(arg.tokens) - chat.n_cached) + sum(len(stop) for stop in arg.stops)
    result = await chat.generate(
        RunOptions(
            arg.sampling,
            arg.n_predict,
            call.state.max_tokens_update or None,
            keeps=True,
            ends=_ends(engine, arg) if arg.stops else None,
            decodes_end=False,
            n_draws=arg.n_draws,
            n_continued=len(arg.tokens) - arg.n_prompt,
            n_logprobs=arg.n_logprobs,
            probs_after=arg.probs_after,
            n_prompt_logprobs=arg.n_prompt_logprobs,
            seconds=call.canister.settings.slice_seconds,
            ahead=ahead,
            on_tokens=on_tokens,
        )
    )
    await chat.commit(result)
    return GenerateOutput(
        result.finish,
        chat.n_cached,
        result.n_prompt_decoded,
        len(chat.prompt) - chat.n_cached - result.n_prompt_decoded,
        tuple(result.details or map(Sampled, result.sampled)),
        result.n_generated,
        result.n_draws,
        result.prompt_seconds,
        result.decode_seconds,
        tuple(result.scored),
    )


def _ends(engine: Engine, arg: GenerateInput) -> Callable[[int], bool]:
    """Does the text of the answer come to a stop with the next token?"""
    stops = Stops(arg.stops)

    def piece(token: int) -> bytes:
        return engine.piece(token, token in arg.shown)

    before = b""
    for token in reversed(arg.tokens[arg.n_prompt :].tolist()):
        if len(before) >= stops.longest:
            break
        before = piece(token) + before
    stops.feed(before)

    def ends(token: int) -> bool:
        stops.feed(piece(token))
        return stops.found is not None

    return ends
