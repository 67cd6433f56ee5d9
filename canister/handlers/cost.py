"""Costs of calls: the log of those that were made, and estimates of those to come. Not in the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from canister.api.records import CallLogEntry, CallLogInput, CostPart, EstimateInput, EstimateRecord, InputRecord
from canister.handlers import chat
from canister.metering import estimate, fees
from canister.runtime import access

if TYPE_CHECKING:
    from canister.runtime.call import Call
    from canister.state.call_log import LoggedCall

DEFAULT_ENTRIES = 100
MAX_ENTRIES = 1000
DEFAULT_ANSWER_TOKENS = 128


async def get_call_log(call: Call, arg: CallLogInput) -> list[CallLogEntry]:
    entries = call.canister.call_log.newest(
        None if access.allows(call.canister, call.caller, "admin_query") else call.caller,
        arg.before_id,
        min(DEFAULT_ENTRIES if arg.max_entries is None else arg.max_entries, MAX_ENTRIES),
    )
    return list(map(call_log_entry, entries))


def call_log_entry(entry: LoggedCall) -> CallLogEntry:
    """A row of a call log, as its readers get it."""
    return CallLogEntry(
        id=entry.id,
        caller=entry.caller,
        method=entry.method,
        timestamp_ns=entry.timestamp_ns,
        outcome=entry.outcome,
        instructions=entry.charge.instructions,
        cycles=entry.charge.cycles,
        limit=entry.charge.limit,
        parts=_parts(entry.charge.parts),
        n_prompt_tokens_decoded=entry.charge.n_prompt,
        n_tokens_generated=entry.charge.n_generated,
    )


async def estimate_run(call: Call, arg: EstimateInput) -> EstimateRecord:
    plan = await chat.plan(call, InputRecord(args=arg.args), as_update=True)
    engine, n_cached = plan.chat.engine, plan.chat.n_cached
    settings, model = call.canister.settings, call.canister.model.cost_model_of(engine)
    answer_tokens = DEFAULT_ANSWER_TOKENS if arg.answer_tokens is None else arg.answer_tokens
    n_prompt, n_ctx = len(plan.chat.prompt), engine.info.n_ctx
    guesses: list[str] = []
    if arg.answer_tokens is not None and answer_tokens > n_ctx - n_prompt:
        guesses.append(
            f"The answer is counted as {n_ctx - n_prompt} tokens, not {answer_tokens}: the context of {n_ctx} has no "
            f"room for more behind a prompt of {n_prompt}."
        )
    answer_tokens = min(answer_tokens, n_ctx - n_prompt)
    max_tokens = call.state.max_tokens_update
    n_predict = plan.args.n_predict if plan.args.n_predict >= 0 else -1

    meter = plan.meter(settings.instruction_limit)
    most = min(max_tokens or n_ctx, n_prompt - n_cached + answer_tokens)
    estimate.rehearse(meter, model.context.n_batch, n_cached, n_prompt - n_cached, most, n_predict)
    cost = meter.cost
    request_bytes = sum(len(text.encode()) for text in arg.args)
    room = estimate.estimate_call(
        model,
        prompt_tokens=n_prompt,
        cached_tokens=n_cached,
        penalized=plan.is_penalized,
        limit=settings.instruction_limit,
    )
    whole = estimate.estimate_conversation(
        model,
        prompt_tokens=n_prompt,
        answer_tokens=answer_tokens,
        cached_tokens=n_cached,
        max_tokens=max_tokens,
        penalized=plan.is_penalized,
        limit=settings.instruction_limit,
        request_bytes=request_bytes,
        nodes=settings.subnet_nodes,
    )
    return EstimateRecord(
        instructions=cost.total,
        cycles=fees.update_cycles(cost.total, request_bytes, nodes=settings.subnet_nodes),
        limit=settings.instruction_limit,
        fits=settings.instruction_limit is None or cost.total <= settings.instruction_limit,
        parts=_parts(cost.parts()),
        max_generate=room.max_generate,
        n_prompt_tokens=n_prompt,
        n_prompt_tokens_cached=n_cached,
        tokens_per_call_first=whole.tokens_per_call_first,
        tokens_per_call_last=whole.tokens_per_call_last,
        calls=whole.n_calls,
        total_instructions=whole.instructions,
        total_cycles=whole.cycles,
        xdr=whole.xdr,
        usd=whole.usd,
        seconds=whole.seconds,
        estimated=[*model.estimates, *guesses],
    )


def _parts(parts: Mapping[str, int]) -> list[CostPart]:
    return [CostPart(part=name, instructions=instructions) for name, instructions in parts.items()]
