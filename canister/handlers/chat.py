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
from canister.engine.request import GenerateRequest, common_prefix
from canister.errors import BadRequest, Conflict
from canister.handlers import conversation as conversations
from canister.handlers.arguments import parse_args
from canister.handlers.model import load
from canister.handlers.output import Output
from canister.handlers.prompt_cache import cache_path
from canister.handlers.run_log import write_log
from canister.metering.meter import CallMeter
from canister.runtime import access
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.engine.request import Tokens
    from canister.flags.parse import RunArgs
    from canister.handlers.conversation import Conversation
    from canister.runtime.call import Call

log = get_logger(__name__)

PROMPT_MARGIN_TOKENS = 4  # a prompt must leave this much of the context free
LONG_PROMPT_CHARACTERS = 4096
CHATS_OFF = "get_chats: DB_CHATS_ACTIVE is false"


async def new_chat(call: Call, arg: InputRecord) -> RunOutputRecord:
    """Make ready for a chat in the cache that `--prompt-cache` names. An existing cache stays and may be reused."""
    path = cache_path(call, parse_args(arg).prompt_cache)
    if call.state.chats_on:
        call.canister.chats.start(call.work)
    return RunOutputRecord(status_code=200, output=f"Ready to start a new chat for cache file {path}")


async def run_update(call: Call, arg: InputRecord) -> RunOutputRecord:
    """Ingest the prompt and generate, as far as the limits of one call allow; the cache keeps what was decoded."""
    return await _run(call, arg, call.state.max_tokens_update)


async def run_query(call: Call, arg: InputRecord) -> RunOutputRecord:
    """As run_update, but nothing is kept."""
    return await _run(call, arg, call.state.max_tokens_query)


@dataclass(frozen=True, slots=True)
class Plan:
    """A run before it begins: what it starts from, and what it is to do.

    prompt: P, the tokens of the whole prompt. n_cached: how many of them the cache has. keeps: the cache is written.
    """

    engine: Engine
    args: RunArgs
    chat: Conversation
    prompt: Tokens
    n_cached: int
    keeps: bool

    @property
    def is_penalized(self) -> bool:
        return self.args.sampling.repeat_penalty != 1.0

    @property
    def decodes(self) -> bool:
        """Is there anything to decode?"""
        is_full = len(self.prompt) >= self.engine.info.n_ctx
        return self.n_cached < len(self.prompt) or (self.args.n_predict != 0 and not is_full)

    def meter(self, call: Call, limit: int | None) -> CallMeter:
        """Counts what the run takes."""
        return CallMeter(
            call.canister.model.cost_model_of(self.engine),
            limit=limit,
            policy=call.canister.settings.budget_policy,
            loaded=len(self.chat.tokens),
            reused=self.n_cached,
            prompt=len(self.prompt) - self.n_cached,
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
    chat = await conversations.begin(call, engine, path, args.seed)
    prompt = await _prompt_tokens(call, engine, args, chat)
    n_cached = common_prefix(prompt, chat.tokens)
    return Plan(engine, args, chat, prompt, n_cached, as_update and path is not None and not args.prompt_cache_ro)


async def _run(call: Call, arg: InputRecord, max_tokens: int) -> RunOutputRecord:
    todo = await plan(call, arg, as_update=call.is_update)
    engine, args, chat, prompt, n_cached = todo.engine, todo.args, todo.chat, todo.prompt, todo.n_cached
    meter = call.meter = todo.meter(call, call.limit)
    if meter.policy == "yield" and (todo.decodes or call.is_over_limit()):
        meter.check_first_step()
    await conversations.fetch(call, engine, chat, prompt, n_cached)
    output = Output(engine, chat, prompt, n_cached, special=args.special, on_text=call.on_text)
    result = await engine.generate(
        GenerateRequest(
            key=chat.path,
            caller=call.caller,
            prefix=chat.tokens[:n_cached],
            prefix_generated=chat.generated[:n_cached],
            prompt=prompt[n_cached:],
            sampling=args.sampling,
            seed=chat.seed,
            max_decode=max_tokens or None,
            n_predict=args.n_predict,
            reverse_prompts=args.reverse_prompts,
            context_shift=args.context_shift,
            n_keep=args.keep,
            restore=lambda n_tokens: conversations.stored_rows(chat, engine, n_tokens),
            n_stored=lambda: conversations.n_stored_rows(chat, engine, n_cached),
            prefix_starts=chat.starts[:n_cached],
            n_whole=conversations.n_whole(chat, n_cached) if engine.info.policy.repeats_cut else None,
            budget=meter,
            keep=todo.keeps,
            want_rows=todo.keeps,
            on_tokens=None if call.on_text is None else output.sampled,
        )
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
                cached=n_cached,
                ingested=result.n_prompt_decoded,
                generated=result.n_generated,
                finish=result.finish,
                instructions=meter.cost.total,
            )
        )

    n_decoded = result.n_prompt_decoded
    remaining = prompt[n_cached + n_decoded :]
    new_tokens = np.array([*prompt[n_cached : n_cached + n_decoded], *result.sampled[: result.n_generated]], np.int32)
    everything = np.concatenate([chat.tokens[:n_cached], new_tokens])
    texts = call.canister.texts
    record = RunOutputRecord(
        status_code=200,
        output=output.end(result),
        conversation=_text(texts.bytes_of(engine, everything, args.special, chat.path)),
        prompt_remaining=_text(texts.bytes_of(engine, remaining, True)),
        generated_eog=result.eog,
        n_prompt_tokens=len(prompt),
        n_prompt_tokens_cached=n_cached,
        n_prompt_tokens_decoded=n_decoded,
        n_tokens_generated=result.n_generated,
        n_prompt_tokens_remaining=len(remaining),
    )
    if call.is_update:
        if todo.keeps:
            # After a context shift the KV memory is no longer that of the tokens: the cache keeps the prompt alone.
            kept = new_tokens[:n_decoded] if result.shifted else new_tokens
            await conversations.write(call, engine, chat, n_cached, kept, n_decoded, result)
        if call.state.chats_on:
            call.canister.chats.save(call.work, record.conversation)
        if args.log_file:
            await write_log(call, engine, args, prompt, record, result, chat.seed)
    return record


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


async def _prompt_tokens(call: Call, engine: Engine, args: RunArgs, chat: Conversation) -> Tokens:
    """P: the tokens of `-p`, or those of the cache when it is empty: go on where the cache ends."""
    if not args.prompt and len(chat.tokens):
        return chat.tokens
    texts = call.canister.texts
    tokens = texts.prompt_tokens(engine, chat.path, args.prompt)
    if tokens is not None:
        return tokens
    if len(args.prompt) < LONG_PROMPT_CHARACTERS:
        tokens = np.asarray(engine.tokenize(args.prompt, add_bos=True), np.int32)
    else:  # some vocabularies take their time
        tokens = np.asarray(await asyncio.to_thread(engine.tokenize, args.prompt, add_bos=True), np.int32)
    if not len(tokens):
        raise BadRequest("input is empty")
    limit = engine.info.n_ctx - PROMPT_MARGIN_TOKENS
    if len(tokens) > limit:
        raise BadRequest(
            f"prompt is too long ({len(tokens)} tokens, max {limit}): shorten it, or load the model with a larger "
            f"--ctx-size than {engine.info.n_ctx}"
        )
    texts.keep_prompt(engine, chat.path, args.prompt, tokens)
    return tokens


def _text(data: bytes) -> str:
    """Text of tokens by themselves; a character cut in two at an end shows as U+FFFD."""
    return data.decode(errors="replace")


# -- saved chats


async def chats_pause(call: Call) -> StatusCodeRecord:
    """Stop saving chats."""
    call.change(chats_on=False)
    return StatusCodeRecord()


async def chats_resume(call: Call) -> StatusCodeRecord:
    """Save each caller's newest chats from now on."""
    call.change(chats_on=True)
    return StatusCodeRecord()


async def get_chats(call: Call) -> GetChatsRecord:
    """The caller's saved chats, newest first."""
    if not call.state.chats_on:
        raise Conflict(CHATS_OFF)
    return GetChatsRecord(
        chats=[ChatRecord(timestamp=row.timestamp, chat=row.chat) for row in call.canister.chats.of(call.caller)]
    )
