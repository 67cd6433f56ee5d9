"""What a door may read of a server without running a method."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from canister.api.records import ApiError
from canister.dispatch.execute import Reply, Terms, run
from canister.engine.load import library
from canister.errors import CanisterBusy, NotFound
from canister.flags.parse import RunArgs, parse
from canister.handlers.chat_template import template_of
from canister.runtime import access
from canister.runtime.call import Call

if TYPE_CHECKING:
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host
    from canister.runtime.running_calls import RunningCall


_LOOK = Terms(is_update=False, err=ApiError, is_limited=False)


def observe(host: Host) -> dict[str, dict[str, float]]:
    """The present metrics of each canister, without callers and names of files."""
    return {canister.name: canister.observed() for canister in host.canisters}


@dataclass(frozen=True, slots=True)
class ModelView:
    """The model that a canister serves, as its clients need to know it.

    aliases: other names that it goes by. args: the flags that it was loaded with. created: seconds since 1970, of its
    file. digest: SHA-256 of its files, hex. file_type: how the weights are stored, as llama.cpp says it. n_slots:
    conversations that are decoded together. vocab_type: llama.cpp's number of the kind of tokenizer. fills_in: it was
    trained to fill in what stands between two texts. fingerprint: of the build of llama.cpp. pooling: of an embedding
    model; "" for one that continues texts.
    """

    name: str
    aliases: tuple[str, ...]
    args: RunArgs
    created: int
    digest: str
    description: str
    file_type: str
    n_ctx: int
    n_ctx_train: int
    n_slots: int
    n_vocab: int
    n_embd: int
    n_params: int
    n_bytes: int
    vocab_type: int
    fills_in: bool
    fingerprint: str
    chat_template: str = ""
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    pooling: str = ""


def inspect_model(host: Host, canister: Canister, caller: str) -> ModelView:
    """The loaded model, for whoever may use it. AccessDenied; NotFound: there is none; CanisterBusy: it is coming."""
    canister.check_available()
    access.check(canister, caller, "inference_query")
    model = canister.model
    engine, given = model.engine, canister.state.model_args
    if engine is None or given is None:
        is_loading = canister.name in host.pending or not model.is_ready
        if is_loading or any(call.method == "load_model" for call in canister.running_calls):
            raise CanisterBusy(f"the model of canister {canister.name} is being loaded; try again later")
        raise NotFound(
            f"no model is loaded in canister {canister.name}: its operator loads one with 'canister models load', or "
            "with load_model"
        )
    info = engine.info
    file = canister.stable.stat(info.name)
    return ModelView(
        name=canister.name,
        aliases=model_names(canister)[1:],
        args=_flags(given),
        created=0 if file is None else file.modified_ns // 10**9,
        digest=info.model_id.hex(),
        description=info.description,
        file_type=info.file_type,
        n_ctx=info.n_ctx,
        n_ctx_train=info.n_ctx_train,
        n_slots=info.n_slots,
        n_vocab=info.n_vocab,
        n_embd=info.n_embd,
        n_params=info.n_params,
        n_bytes=info.weight_bytes,
        vocab_type=info.vocab_type,
        fills_in=min(info.fill_in[:3]) >= 0,
        fingerprint=_fingerprint(),
        chat_template=template_of(engine, _flags(given).chat_template)[0],
        special_tokens=engine.special_tokens,
        pooling=info.pooling,
    )


def model_names(canister: Canister) -> tuple[str, ...]:
    """The names of a canister's model: those of the canister, and of the file. None where there is no model, or it is
    loading.
    """
    given = canister.state.model_args
    if given is None:
        return ()
    path = _flags(given).model or ""
    return canister.name, canister.id, path, path.rpartition("/")[2].removesuffix(".gguf")


async def tokenize(canister: Canister, caller: str, texts: Sequence[str]) -> Reply:
    """The tokens of each text, special tokens parsed, without BOS: a list a text. Nothing is charged for it."""

    async def handle(call: Call) -> list[list[int]]:
        access.check(canister, caller, "inference_query")
        engine = await call.engine(use="any")
        return await asyncio.to_thread(lambda: [engine.tokenize(text, add_bos=False) for text in texts])

    return await run(canister, "tokenize", caller, handle, _LOOK)


@cache
def _fingerprint() -> str:
    return f"b{library.version()}-{library.library_id()[:7]}"


@lru_cache(16)
def _flags(given: tuple[str, ...]) -> RunArgs:
    return parse(given)


async def inspect_engine(canister: Canister, caller: str) -> Reply:
    """How a canister's model runs, and what its calls may do, for callers who may see what is not their own.

    Nothing is charged for it.
    """

    async def handle(call: Call) -> dict[str, object]:
        access.check(canister, caller, "admin_query")
        state, settings = call.state, canister.settings
        return {
            **canister.model.report(),
            "limits": {
                "max_tokens_update": state.max_tokens_update,
                "max_tokens_query": state.max_tokens_query,
                "instruction_limit": settings.instruction_limit,
                "query_instruction_limit": settings.query_instruction_limit,
            },
            "access": {"level": state.access_level, "who": access.LEVELS[state.access_level]},
            "cycles": canister.ledger.cycles,
            "uptime_seconds": canister.uptime_seconds,
        }

    return await run(canister, "engine", caller, handle, _LOOK)


async def inspect_calls(canister: Canister, caller: str) -> Reply:
    """The running and waiting calls with their callers, for the controllers. Nothing is charged for it."""

    async def handle(call: Call) -> dict[str, object]:
        access.check(canister, caller, "controller")
        running = [_described(other, time.time_ns()) for other in canister.running_calls if other is not call]
        waiting = canister.admission.waiting()
        return {"running": running, "waiting": [{"caller": who, "calls": n} for who, n in waiting.items()]}

    return await run(canister, "calls", caller, handle, _LOOK)


def _described(call: RunningCall, now_ns: int) -> dict[str, object]:
    """A call at the moment. Tokens are those that it has decoded so far; the rate is that of the whole call."""
    seconds = max(0.0, (now_ns - call.work.now_ns) / 1e9)
    told: dict[str, object] = {"caller": call.work.caller, "method": call.method, "seconds": round(seconds, 3)}
    if call.meter is None:
        return {**told, "phase": "at work"}
    work, n_wanted = call.meter.work, call.meter.n_wanted
    n_decoded = work.prompt + work.generated
    phase = "answer" if work.prompt == n_wanted else "prompt"
    return {
        **told,
        "phase": phase if n_decoded or not n_wanted else "waits for a slot",
        "prompt_tokens": work.prompt,
        "prompt_tokens_wanted": n_wanted,
        "generated_tokens": work.generated,
        "tokens_per_second": round(n_decoded / seconds, 1) if seconds else 0.0,
    }
