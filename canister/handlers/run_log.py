"""The log of one run in a file of stable memory, for `--log-file`: prompt tokens, settings, timings."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from canister.errors import BadRequest, Conflict
from canister.runtime import access
from canister.store.cache_paths import CACHE_FOLDER

if TYPE_CHECKING:
    from canister.api.records import RunOutputRecord
    from canister.engine.engine import Engine
    from canister.engine.request import GenerateResult, Tokens
    from canister.flags.parse import RunArgs
    from canister.runtime.call import Call

OLD = ".1"  # behind the name of the former log
FIRST_LINE = b"# log of llama.cpp runs\n"  # tells a log from any other file: only logs are appended to


async def write_log(
    call: Call,
    engine: Engine,
    args: RunArgs,
    prompt: Tokens,
    record: RunOutputRecord,
    result: GenerateResult,
    seed: int,
) -> None:
    """Append this run to the file `--log-file`. Conflict when a file of that name is no log.

    A log that would outgrow the setting begins anew, and the former one is kept as `….1`.
    """
    stable = call.canister.stable
    path = log_path(call, args.log_file)
    old = path + OLD
    await call.lock(path, old)  # after the cache's lock, never before, so that no runs wait for each other in a circle
    entry = "\n".join(_lines(call, engine, args, prompt, record, result, seed)).encode() + b"\n\n"
    known = stable.stat(path)
    if known is None:
        call.tx.write_file(path, FIRST_LINE + entry)
        return
    # Without this check a log could spoil a model.
    _check_is_log(call, path)
    if known.size + len(entry) <= call.canister.settings.max_log_bytes:
        call.tx.append_file(path, entry)
        return
    if stable.stat(old) is not None:
        _check_is_log(call, old)
    call.tx.copy_file(path, old)
    call.tx.write_file(path, FIRST_LINE + entry)


def _check_is_log(call: Call, path: str) -> None:
    known = call.canister.stable.stat(path)
    is_file = known is not None and known.kind == "file"
    if not is_file or call.canister.stable.read(path, 0, len(FIRST_LINE)) != FIRST_LINE:
        raise Conflict(f"--log-file {path}: there is something else of that name; choose another one")


def log_path(call: Call, name: str) -> str:
    """The path of a log of this name. Callers who are no admins have a folder of their own, without other callers'
    files.
    """
    if not access.allows(call.canister, call.caller, "admin_update"):
        return call.canister.clean(f"{CACHE_FOLDER}/{call.caller}/logs/{name.lstrip('/')}")
    path = call.canister.clean(name)
    if path.startswith(CACHE_FOLDER + "/"):
        raise BadRequest(f"--log-file {name}: logs do not go among the prompt caches; choose another name")
    return path


def _lines(
    call: Call,
    engine: Engine,
    args: RunArgs,
    prompt: Tokens,
    record: RunOutputRecord,
    result: GenerateResult,
    seed: int,
) -> Iterable[str]:
    when = dt.datetime.fromtimestamp(call.now_ns / 1e9, dt.UTC)
    yield f"{when:%Y-%m-%d %H:%M:%S} {call.method} caller = {call.caller}"
    yield f"model: {engine.info.description}, n_ctx = {engine.info.n_ctx}, n_batch = {engine.info.n_batch}"
    yield f"number of tokens in prompt = {len(prompt)}"
    for token in map(int, prompt):
        yield f"{token:6d} -> {engine.piece(token, True).decode(errors='replace')!r}"
    yield f"sampler seed: {seed}"
    yield "sampler params: " + ", ".join(
        f"{name} = {value}" for name, value in asdict(args.sampling).items() if name != "samplers"
    )
    yield "sampler chain: logits -> " + " -> ".join((*args.sampling.samplers, "dist"))
    yield (
        f"generate: n_ctx = {engine.info.n_ctx}, n_batch = {engine.info.n_batch}, "
        f"n_predict = {args.n_predict}, n_keep = {args.keep}"
    )
    yield f"tokens: {', '.join(map(str, result.sampled)) or 'none'}; finish reason: {result.finish}"
    yield (
        f"cached = {record.n_prompt_tokens_cached}, decoded = {record.n_prompt_tokens_decoded}, "
        f"remaining = {record.n_prompt_tokens_remaining}, generated = {record.n_tokens_generated}"
    )
    yield _timing("prompt eval time", result.prompt_seconds, result.n_prompt_decoded)
    yield _timing("       eval time", result.decode_seconds, result.n_generated)
    yield _timing("   sampling time", result.sample_seconds, len(result.sampled))


def _timing(name: str, seconds: float, n_tokens: int) -> str:
    rate = f", {n_tokens / seconds:.2f} tokens per second" if n_tokens and seconds > 0 else ""
    return f"{name} = {seconds * 1000:.2f} ms / {n_tokens} tokens{rate}"
