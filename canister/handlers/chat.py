"""Inference: new_chat, run_update, run_query, and the saved chats.

A call reuses the longest common prefix of the prompt P and the cache S. It decodes the rest of P, then the answer,
token by token, until a limit is reached. All state between calls is in the prompt cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from canister.api.records import ChatRecord, GetChatsRecord, InputRecord, RunOutputRecord, StatusCodeRecord
from canister.errors import BadRequest, Conflict
from canister.handlers.arguments import parse_args
from canister.handlers.conversation import CachedConversation, RunOptions
from canister.handlers.model import load
from canister.handlers.output import Output
from canister.handlers.prompt_cache import cache_path
from canister.handlers.run_log import write_log
from canister.runtime import access

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.engine.request import GenerateResult
    from canister.flags.parse import RunArgs
    from canister.metering.meter import CallMeter
    from canister.runtime.call import Call

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
    """A run before it begins: what it starts from, and what it will do. keeps: the cache is written."""

    args: RunArgs
    chat: CachedConversation
    keeps: bool

    @property
    def is_penalized(self) -> bool:
        return self.args.sampling.repeat_penalty != 1.0

    def meter(self, limit: int | None) -> CallMeter:
        """The meter of the run."""
        return self.chat.meter(limit, writes=self.keeps, penalized=self.is_penalized)


async def plan(call: Call, arg: InputRecord, *, as_update: bool) -> Plan:
    """Parse the flags, open model and cache, and find out how much of the prompt the cache already has."""
    args = parse_args(arg)
    path = cache_path(call, args.prompt_cache) if args.prompt_cache else None
    engine = await _engine_for(call, args, arg)
    if path is not None:
        await call.lock(path)
    chat = await CachedConversation.open(call, engine, path, args.prompt, seed=args.seed)
    return Plan(args, chat, as_update and path is not None and not args.prompt_cache_ro)


async def _decode(call: Call, run: Plan, max_tokens: int) -> tuple[GenerateResult, str]:
    """Let the engine work within the limits. Returns its result and the run's `output`. max_tokens: 0 for no limit."""
    args = run.args
    output = Output(run.chat, special=args.special, on_text=call.on_text)
    options = RunOptions(
        args.sampling,
        args.n_predict,
        max_tokens or None,
        run.keeps,
        reverse_prompts=args.reverse_prompts,
        context_shift=args.context_shift,
        n_keep=args.keep,
        on_tokens=None if call.on_text is None else output.sampled,
    )
    result = await run.chat.generate(options)
    return result, output.end(result)


def _record(run: Plan, result: GenerateResult, output: str) -> RunOutputRecord:
    """The answer to the caller."""
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
    """Keep prompt cache, saved chat and log file, when the call commits."""
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
