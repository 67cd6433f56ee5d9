"""What a call or a conversation will cost, before it is run, and whether a model fits at all. Pure functions.

An estimate of a conversation lets the meter of each call admit the very steps that a run would ask for, so estimate and
run agree to the instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from canister.defaults import UPDATE_LIMIT
from canister.errors import BadRequest
from canister.flags.parse import RunArgs
from canister.metering import fees
from canister.metering.cost_model import CallCost, CostContext, CostModel, PageCosts, Work, upload_cost
from canister.metering.meter import CallMeter
from canister.model_file.shape import ModelShape

HEAP_LIMIT_BYTES = 4_026_531_840  # 3.75 GiB, as llama_cpp_canister sets it
LOADS_UP_TO_BYTES = 1_670_000_000  # the largest file known to load
FAILS_FROM_BYTES = 1_830_000_000  # the smallest known to touch more than 2 GiB of stable memory when loaded
_CONTEXT_STEP = 256
_UPLOAD_BYTES = 2_000_000  # of a file in one message


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """One call. max_generate: the most tokens that could be sampled and decoded in it."""

    cost: CallCost
    instructions: int
    cycles: int
    limit: int | None
    fits: bool
    max_generate: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EstimatedCall:
    """One call of a conversation: where it starts, and the tokens that it decodes."""

    position: int
    prompt: int
    generated: int
    instructions: int
    cycles: int


@dataclass(frozen=True, slots=True)
class ConversationEstimate:
    """A prompt and its answer, in as many calls as it takes.

    tokens_per_call_first, tokens_per_call_last: answer tokens that fit one call right after the prompt, and at the
    end of the answer. seconds: main-network time.
    """

    steps: tuple[EstimatedCall, ...]
    tokens_per_call_first: int
    tokens_per_call_last: int
    instructions: int
    cycles: int
    xdr: float
    usd: float
    seconds: float

    @property
    def n_calls(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, slots=True)
class Fit:
    """Will the model load, and with how large a context?

    loads: by the bytes of stable memory that loading touches; maybe: between the known sizes. heap_bytes: with the
    context in question. n_ctx_heap: the largest context within the heap limit. n_ctx_calls: the largest in which a call
    on a full context still decodes a token; 0: none. n_ctx: the largest that satisfies both and the model's own length.
    """

    loads: Literal["yes", "maybe", "no"]
    heap_bytes: int
    heap_fits: bool
    n_ctx_heap: int
    n_ctx_calls: int
    n_ctx: int


def upload_cycles(file_bytes: int, *, nodes: int = fees.NODES) -> int:
    """Cycles of the upload of a file, in messages as large as the main network takes them."""
    n_whole, rest = divmod(file_bytes, _UPLOAD_BYTES)

    def cycles(n_bytes: int) -> int:
        return fees.update_cycles(upload_cost(n_bytes), n_bytes, nodes=nodes)

    return n_whole * cycles(_UPLOAD_BYTES) + (cycles(rest) if rest else 0)


def context_of(args: RunArgs, shape: ModelShape) -> CostContext:
    """The context that load_model makes of these flags."""
    n_ctx = args.ctx_size or shape.n_ctx_train
    if not n_ctx:
        raise BadRequest("The model does not say how long its context is: give --ctx-size.")
    # As llama.cpp does: no batch is larger than the context, and none is computed in larger pieces than itself.
    n_batch = min(args.batch_size, n_ctx)
    n_ubatch = min(args.ubatch_size, n_batch)
    return CostContext(n_ctx, n_batch, n_ubatch, args.cache_type_k, args.cache_type_v, swa_full=args.swa_full)


def estimate_call(
    model: CostModel,
    *,
    prompt_tokens: int,
    cached_tokens: int = 0,
    generate: int = 0,
    saves: int | None = None,
    penalized: bool = False,
    limit: int | None = UPDATE_LIMIT,
    request_bytes: int = 0,
    nodes: int = fees.NODES,
) -> CallEstimate:
    """One call on a prompt of `prompt_tokens`, cached ones included, that samples and decodes `generate` tokens.

    saves: default 2 when the call finishes a prompt, 1 otherwise. Raises BadRequest for counts that cannot be.
    """
    room = model.context.n_ctx - prompt_tokens
    if not 0 <= cached_tokens <= prompt_tokens or generate < 0 or (saves or 0) < 0:
        raise BadRequest(
            f"{cached_tokens} cached of {prompt_tokens} prompt tokens, {generate} generated"
            f"{'' if saves is None else f', {saves} saves'} make no "
            "sense: cached tokens are part of the prompt, and no count is negative."
        )
    if generate > room:
        raise BadRequest(
            f"{prompt_tokens} prompt tokens and {generate} generated ones do not fit a context of "
            f"{model.context.n_ctx} tokens."
        )
    fresh = prompt_tokens - cached_tokens
    work = Work(
        loaded=cached_tokens,
        reused=cached_tokens,
        prompt=fresh,
        generated=generate,
        sampled=generate,
        saves=(2 if fresh else 1) if saves is None else saves,
        penalized=penalized,
    )

    def fits(n: int) -> bool:
        return limit is None or model.cost(replace(work, generated=n, sampled=n)).total <= limit

    cost = model.cost(work)
    return CallEstimate(
        cost=cost,
        instructions=cost.total,
        cycles=fees.update_cycles(cost.total, request_bytes, nodes=nodes),
        limit=limit,
        fits=limit is None or cost.total <= limit,
        max_generate=_largest(0, room, fits),
        seconds=fees.seconds(cost.total),
    )


def estimate_conversation(
    model: CostModel,
    *,
    prompt_tokens: int,
    answer_tokens: int,
    cached_tokens: int = 0,
    max_tokens: int = 0,
    penalized: bool = False,
    limit: int | None = UPDATE_LIMIT,
    request_bytes: int = 0,
    nodes: int = fees.NODES,
) -> ConversationEstimate:
    """A chat: the prompt goes in and the answer comes out, each call doing as much as its budget allows.

    cached_tokens: of the prompt, already in the cache; 0 for a fresh chat. max_tokens: decoded tokens per call, as
    set_max_tokens sets it; 0: no limit. answer_tokens includes the token that ends the answer. Raises BadRequest when
    the context is too short, or when no token fits a call.
    """
    total = prompt_tokens + answer_tokens
    if prompt_tokens < 1 or answer_tokens < 0 or max_tokens < 0:
        raise BadRequest(f"A prompt of {prompt_tokens} and an answer of {answer_tokens} tokens make no conversation.")
    if total > model.context.n_ctx:
        raise BadRequest(f"A conversation of {total} tokens does not fit a context of {model.context.n_ctx}.")
    steps: list[EstimatedCall] = []
    position = cached_tokens
    while position < total:
        prompt = max(0, prompt_tokens - position)
        meter = CallMeter(model, limit=limit, loaded=position, reused=position, prompt=prompt, penalized=penalized)
        meter.check_first_step()
        most = min(max_tokens or total, total - position)
        work = rehearse(meter, model.context.n_batch, position, prompt, most)
        spent = meter.cost.total
        cycles = fees.update_cycles(spent, request_bytes, nodes=nodes)
        steps.append(EstimatedCall(position, work.prompt, work.generated, spent, cycles))
        position = work.end
    instructions, cycles = sum(step.instructions for step in steps), sum(step.cycles for step in steps)

    def per_call(cached: int) -> int:
        found = estimate_call(
            model, prompt_tokens=cached, cached_tokens=cached, penalized=penalized, limit=limit
        ).max_generate
        return min(found, max_tokens or found)

    return ConversationEstimate(
        steps=tuple(steps),
        tokens_per_call_first=per_call(prompt_tokens),
        tokens_per_call_last=per_call(max(prompt_tokens, total - 1)),
        instructions=instructions,
        cycles=cycles,
        xdr=fees.xdr(cycles),
        usd=fees.usd(cycles),
        seconds=fees.seconds(instructions),
    )


def rehearse(meter: CallMeter, n_batch: int, position: int, prompt: int, max_decode: int, n_predict: int = -1) -> Work:
    """One call that starts at `position`: asks the meter what the engine would ask if the answer does not end.

    max_decode: the most tokens that it may decode, prompt included. n_predict: the most tokens that it samples, the
    last of which is not decoded; negative: no limit.
    """
    end, wanted = position + max_decode, min(prompt, max_decode)
    n_decoded = 0
    while n_decoded < wanted:
        asked = min(n_batch, wanted - n_decoded)
        granted = meter.admit_prompt(position + n_decoded, asked)
        n_decoded += granted
        if granted < asked:
            return meter.work
    if n_decoded < prompt:
        return meter.work
    position += n_decoded
    n_sampled = 0
    while position < end and n_sampled != n_predict and meter.admit_sample(position):
        n_sampled += 1
        if n_sampled == n_predict or not meter.admit_decode(position):
            break
        position += 1
    return meter.work


def estimate_fit(
    shape: ModelShape,
    context: CostContext,
    *,
    pages: PageCosts = "mainnet",
    limit: int | None = UPDATE_LIMIT,
    heap_limit_bytes: int = HEAP_LIMIT_BYTES,
) -> Fit:
    """Whether the model loads, and the largest context for it with these KV types and batch sizes."""

    def model_with(n_ctx: int) -> CostModel:
        return CostModel(shape, replace(context, n_ctx=n_ctx), pages)

    def heap_fits(steps: int) -> bool:
        return model_with(steps * _CONTEXT_STEP).heap_bytes <= heap_limit_bytes

    def calls_fit(steps: int) -> bool:
        last = steps * _CONTEXT_STEP - 1
        model = model_with(last + 1)
        return (
            limit is None or model.cost(Work(loaded=last, reused=last, generated=1, sampled=1, saves=1)).total <= limit
        )

    longest = max(shape.n_ctx_train, context.n_ctx)
    most_steps = -(-longest // _CONTEXT_STEP)
    n_ctx_heap = min(longest, _largest(0, most_steps, heap_fits) * _CONTEXT_STEP)
    n_ctx_calls = min(longest, _largest(0, most_steps, calls_fit) * _CONTEXT_STEP)
    heap_bytes = model_with(context.n_ctx).heap_bytes
    return Fit(
        loads=_loads(shape.file_bytes),
        heap_bytes=heap_bytes,
        heap_fits=heap_bytes <= heap_limit_bytes,
        n_ctx_heap=n_ctx_heap,
        n_ctx_calls=n_ctx_calls,
        n_ctx=min(n_ctx_heap, n_ctx_calls, shape.n_ctx_train or n_ctx_heap),
    )


def against(found: Fit, *, has_room: bool) -> list[str]:
    """Why a model does not fit; empty: it does, or may. has_room: a call on a full context still decodes a token."""
    largest = f"--ctx-size {found.n_ctx} does" if found.n_ctx else "no context does"
    return [
        reason
        for reason, is_so in (
            ("the file is too large to load", found.loads == "no"),
            (f"the heap is too small for this context; {largest}", not found.heap_fits),
            (f"at the end of this context no token fits a call; {largest}", found.heap_fits and not has_room),
        )
        if is_so
    ]


def _loads(file_bytes: int) -> Literal["yes", "maybe", "no"]:
    if file_bytes <= LOADS_UP_TO_BYTES:
        return "yes"
    return "no" if file_bytes >= FAILS_FROM_BYTES else "maybe"


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest n in (low, high] that fits, or low; what fits also fits smaller."""
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
