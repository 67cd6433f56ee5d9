"""Inference: new_chat, run_update, run_query, and the saved chats.

A call's conversation is the prompt P, as far as the cache S does not hold it already (their longest common prefix is
reused), and then the answer, token by token, until a limit is reached. All state between calls is in the prompt cache.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from canister.api.records import ChatRecord, GetChatsRecord, InputRecord, RunOutputRecord, StatusCodeRecord
from canister.errors import BadRequest, Conflict
from canister.handlers.arguments import parse_args
from canister.handlers.conversation import CachedConversation
from canister.handlers.model import load
from canister.handlers.output import Output
from canister.handlers.prompt_cache import cache_path
from canister.handlers.run_log import write_log
from canister.metering.meter import CallMeter
from canister.runtime import access
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.engine.request import GenerateResult
    from canister.flags.parse import RunArgs
    from canister.runtime.call import Call

log = get_logger(__name__)

CHATS_OFF = "get_chats: DB_CHATS_ACTIVE is false"


async def new_chat(call: Call, arg: InputRecord) -> RunOutputRecord:
    path = cache_path(call, parse_args(arg).prompt_cache)
    if call.state.chats_on:
        call.canister.chats.start(call.work)
    return RunOutputRecord(status_code=200, output=f"Ready to start a new chat for cache file {path}")


async def run_update(call: Call, arg: InputRecord) -> RunOutputRecord:
    run = await plan(call, arg, as_update=True)
    result, output = await _decode(call, run, call.state.max_tokens_update)
    record = _record(run, result, output)
    await _keep(call, run, result, record)
    return record


async def run_query(call: Call, arg: InputRecord) -> RunOutputRecord:
    run = await plan(call, arg, as_update=False)
    result, output = await _decode(call, run, call.state.max_tokens_query)
    return _record(run, result, output)


@dataclass(frozen=True, slots=True)
class Plan:
    """A run before it begins: what it starts from, and what it is to do. keeps: the cache is written."""

    args: RunArgs
    chat: CachedConversation
    keeps: bool

    @property
    def is_penalized(self) -> bool:
        return self.args.sampling.repeat_penalty != 1.0

    @property
    def decodes(self) -> bool:
        """Is there anything to decode?"""
        chat = self.chat
        is_full = len(chat.prompt) >= chat.engine.info.n_ctx
        return chat.n_cached < len(chat.prompt) or (self.args.n_predict != 0 and not is_full)

    def meter(self, call: Call, limit: int | None) -> CallMeter:
        """Counts what the run takes."""
        return CallMeter(
            call.canister.model.cost_model_of(self.chat.engine),
            limit=limit,
            policy=call.canister.settings.budget_policy,
            loaded=len(self.chat.tokens),
            reused=self.chat.n_cached,
            prompt=len(self.chat.prompt) - self.chat.n_cached,
            writes=self.keeps,
            penalized=self.is_penalized,
        )


async def plan(call: Call, arg: InputRecord, *, as_update: bool) -> Plan:
    """Parse the flags, take model and cache, and see how much of the prompt the cache has already."""
    args = parse_args(arg)
    path = cache_path(call, args.prompt_cache) if args.prompt_cache else None
    engine = await _engine_for(call, args, arg)
    if path is not None:
        await call.lock(path)
    chat = await CachedConversation.open(call, engine, path, args)
    return Plan(args, chat, as_update and path is not None and not args.prompt_cache_ro)


async def _decode(call: Call, run: Plan, max_tokens: int) -> tuple[GenerateResult, str]:
    """Let the engine work, as far as the limits allow: what it did, and `output`. max_tokens: 0 for no limit."""
    chat = run.chat
    meter = call.meter = run.meter(call, call.limit)
    if meter.policy == "yield" and (run.decodes or call.is_over_limit()):
        meter.check_first_step()
    await chat.prefetch()
    output = Output(chat, special=run.args.special, on_text=call.on_text)
    on_tokens = None if call.on_text is None else output.sampled
    result = await chat.engine.generate(
        chat.request(run.args, max_decode=max_tokens or None, budget=meter, keep=run.keeps, on_tokens=on_tokens)
    )
    call.check_limit()
    if call.state.log_on:
        # The loop writes it while the commit waits for the disk.
        asyncio.get_running_loop().call_soon(
            partial(
                log.info,
                "run",
                canister=call.canister.name,
                method=call.method,
                cached=chat.n_cached,
                ingested=result.n_prompt_decoded,
                generated=result.n_generated,
                finish=result.finish,
                instructions=meter.cost.total,
            )
        )
    return result, output.end(result)


def _record(run: Plan, result: GenerateResult, output: str) -> RunOutputRecord:
    """What the caller is told."""
    chat, texts = run.chat, run.chat.call.canister.texts
    remaining = chat.prompt[chat.n_cached + result.n_prompt_decoded :]
    everything = np.concatenate([chat.tokens[: chat.n_cached], chat.decoded(result)])
    return RunOutputRecord(
        status_code=200,
        output=output,
        conversation=_text(texts.bytes_of(chat.engine, everything, run.args.special, chat.path)),
        prompt_remaining=_text(texts.bytes_of(chat.engine, remaining, True)),
        generated_eog=result.eog,
        n_prompt_tokens=len(chat.prompt),
        n_prompt_tokens_cached=chat.n_cached,
        n_prompt_tokens_decoded=result.n_prompt_decoded,
        n_tokens_generated=result.n_generated,
        n_prompt_tokens_remaining=len(remaining),
    )


async def _keep(call: Call, run: Plan, result: GenerateResult, record: RunOutputRecord) -> None:
    """Prompt cache, saved chat and log file, when the call commits."""
    if run.keeps:
        await run.chat.commit(result)
    if call.state.chats_on:
        call.canister.chats.save(call.work, record.conversation)
    if run.args.log_file:
        await write_log(call, run.chat.engine, run.args, run.chat.prompt, record, result, run.chat.seed)


async def _engine_for(call: Call, args: RunArgs, arg: InputRecord) -> Engine:
    if args.model is None:
        return await call.engine()
    if not call.is_update:
        engine = await call.engine()
        if not call.canister.model.is_loaded_from(args.model):
            raise BadRequest(
                f"a query cannot load a model: --model {args.model} is not the loaded one; call load_model first"
            )
        return engine
    access.check(call.canister, call.caller, "admin_update")
    if call.canister.model.is_loaded_with(args):
        return await call.engine()
    return await load(call, args, tuple(arg.args))


def _text(data: bytes) -> str:
    """Text of tokens by themselves; a character cut in two at an end shows as U+FFFD."""
    return data.decode(errors="replace")


# -- saved chats


async def chats_pause(call: Call) -> StatusCodeRecord:
    call.change(chats_on=False)
    return StatusCodeRecord()


async def chats_resume(call: Call) -> StatusCodeRecord:
    call.change(chats_on=True)
    return StatusCodeRecord()


async def get_chats(call: Call) -> GetChatsRecord:
    if not call.state.chats_on:
        raise Conflict(CHATS_OFF)
    return GetChatsRecord(
        chats=[ChatRecord(timestamp=row.timestamp, chat=row.chat) for row in call.canister.chats.of(call.caller)]
    )
