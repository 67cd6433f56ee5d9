"""From a model file and settings to a context that is ready: reads, measures, decides, and makes it.

load_model      on any thread: weights and vocabulary
prepare         on the decode thread, in steps: measure or recall, decide, make the context
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Generator
from dataclasses import astuple, replace

from canister.engine.aside import Steps, computed_aside, done_aside, run_through
from canister.engine.batch_invariance import (
    MAX_SLOTS,
    TOKEN_BY_TOKEN,
    Kernels,
    Policy,
    decide,
    joins_prompts,
    measures,
)
from canister.engine.devices import kv_room
from canister.engine.drafting.model import DraftModel
from canister.engine.dummy_rows import DUMMY_CELLS
from canister.engine.kv.rows import KvRowsError, Layout, parse
from canister.engine.llama import KV_TYPES, Context, Model
from canister.engine.llama_build import start_backend
from canister.engine.llama_types import UNQUANTIZED, ContextParams, ModelError, Placed
from canister.engine.load import calibration
from canister.engine.load import calibration_file as kept
from canister.engine.load.calibration_file import Calibration
from canister.engine.load.draft_loader import NO_DRAFTS, NO_SPECULATION, check_draft, prepare_draft
from canister.engine.load.library import library_id
from canister.engine.load.loaded import EngineInfo, Loaded, LoadParams, Threads
from canister.engine.load.memory_budget import CELLS_STEP, Need, check
from canister.engine.load.memory_trial import N_OUTPUTS
from canister.engine.load.ways import Restrictions
from canister.engine.pages import trim_heap
from canister.engine.schedule.scheduler import ALONE
from canister.engine.traits import Traits
from canister.flags.parse import RopeParams
from canister.system.machine import available_bytes, cpu_name, usable_cores
from canister.telemetry.logs import get_logger

MIN_ROWS = 64  # of a physical batch
SPARE_SHARE = 4  # of the memory that is available, one part in so many is for KV cells
BUSY = "measured while other work kept the cores busy; measured again at the next load, or set --threads"
_PROBE_TOKENS = 3

log = get_logger(__name__)


def load(params: LoadParams, model: Model | None = None) -> Loaded:
    """All of it at once, or what comes after `load_models`, on this thread. Raises ModelError, Conflict."""
    draft: Model | None = None
    if model is None:
        model, draft = load_models(params)
    return run_through(prepare(params, model, draft=draft))


def load_model(params: LoadParams) -> Model:
    """Load weights and vocabulary. Raises ModelError. Refuses settings that exclude each other before it reads
    anything.
    """
    start_backend()
    name = _name(params)
    v_is_quantized = _v_is_quantized(params)
    measures(params.exact_mode, params.allowed_flash_attn, v_is_quantized)
    try:
        params.n_file_bytes()
    except OSError as error:
        raise ModelError(f"Cannot load the model {name}: {error.strerror}") from error
    return Model(
        params.path,
        name,
        params.more_paths,
        extra_buffers=params.restrictions.extra_buffers,
        placement=params.placed.params,
    )


def load_models(params: LoadParams) -> tuple[Model, Model | None]:
    """As `load_model`, and the draft model, if there is one and it may draft. Raises ModelError."""
    model = load_model(params)
    if params.draft is None or params.spec_type == "none":
        return model, None
    draft = load_model(params.draft)
    check_draft(params, model, draft)
    return model, draft


def prepare(
    params: LoadParams, model: Model, mapped_bytes: int = 0, *, is_shared: bool = False, draft: Model | None = None
) -> Steps[Loaded]:
    """Make the context; ModelError, Conflict. On the thread that will decode; yields between two decodes, or what is to
    be done aside.

    mapped_bytes: of the model files of all engines of the process, which stay in memory although they count as
    available. is_shared: other engines decode on the thread too, so that no decode of many rows may hold them up.
    """
    name = _name(params)
    v_is_quantized = _v_is_quantized(params)
    n_ctx = params.n_ctx or model.n_ctx_train
    if n_ctx < 1:
        raise ModelError(f"Cannot load the model {name}: its context length is {n_ctx} tokens; give --ctx-size")
    n_cores = usable_cores()
    shape = ContextParams(
        n_streams=1,
        n_cells=CELLS_STEP,
        n_rows=max(MIN_ROWS, min(params.n_ubatch, params.n_batch, n_ctx, ALONE) // 16 * 16),
        n_threads=n_cores,
        type_k=params.type_k,
        type_v=params.type_v,
        rope=params.rope,
        most_at_once=params.restrictions.max_rows,
        offload_kv=params.placed.offloads_kv,
        is_offloaded=params.placed.is_offloaded,
    )
    found = yield from _calibrate(params, model, shape, n_cores, is_shared)
    policy = decide(params.exact_mode, params.allowed_flash_attn, v_is_quantized, params.allowed_slots, found.kernels)
    if policy.flash_attn and params.restrictions.flash == "on" and params.flash_attn == "auto":
        policy = replace(policy, why=f"{params.exact}: llama.cpp works here with flash attention alone")
    if params.memory.single_rows:
        policy = replace(policy, chunk=TOKEN_BY_TOKEN)
    threads = _threads(params, found, n_cores)
    shape = replace(shape, flash_attn=policy.flash_attn, n_threads=threads.n)
    traits = yield from _look(model, shape, policy, found.kernels, params)
    # Where a chunk is filled up with dummy rows they need cells.
    n_cells = -(-(n_ctx + max(DUMMY_CELLS, policy.chunk.block)) // CELLS_STEP) * CELLS_STEP
    room = kv_room(params.placed, model.n_layers, available_bytes() - mapped_bytes)
    n_slots = params.allowed_slots or _slots_by_memory(n_cells * traits.kv_bytes_per_token, room, policy)
    n_streams = max(n_slots, 2) if traits.needs_pairs else n_slots
    bytes_per_chat = min(n_cells * traits.kv_bytes_per_token, params.kv_bytes or sys.maxsize)
    need = Need(n_ctx, n_cells, n_streams, traits.kv_bytes_per_token, bytes_per_chat)
    check(name, need, room)
    shape = replace(
        shape,
        # Where a lonely row needs a neighbour, there is one.
        n_streams=n_streams,
        n_cells=n_cells,
        n_rows=max(shape.n_rows, n_slots),
        n_outputs=max(n_streams, N_OUTPUTS) if traits.all_outputs else 0,
        n_verified=traits.n_verified,
    )
    yield None
    trim_heap()  # so that the context's buffers lie in fresh pages
    drafting: DraftModel | None = None
    if draft is not None and traits.n_verified:
        left = room - need.n_bytes
        drafting = yield from prepare_draft(params, draft, model.n_vocab, n_slots, threads.n, left)
    try:
        context = yield from _context(model, shape, name)
    except BaseException:
        if drafting is not None:
            drafting.close()
        raise
    info = EngineInfo(
        name=name,
        model_id=params.model_id,
        model_bytes=params.n_file_bytes(),
        description=model.description,
        file_type=model.file_type,
        chat_template=model.chat_template,
        bos_token=model.bos_token,
        eos_token=model.eos_token,
        fill_in=model.fill_in,
        n_params=model.n_params,
        n_vocab=model.n_vocab,
        vocab_type=model.vocab_type,
        n_embd=model.n_embd,
        weight_bytes=model.size_bytes,
        n_ctx_train=model.n_ctx_train,
        add_bos=model.add_bos,
        n_ctx=n_ctx,
        n_batch=params.n_batch,
        n_ubatch=params.n_ubatch,
        n_slots=n_slots,
        n_threads=threads.n,
        type_k=params.type_k,
        type_v=params.type_v,
        flash_attn=policy.flash_attn,
        can_shift=context.can_shift and traits.rolls_back,
        kv_bytes_per_token=traits.kv_bytes_per_token,
        kv_layout=_descriptor(traits.layout, params.rope, policy, params.restrictions, params.placed),
        kv_kind=_kind(traits.layout),
        policy=policy,
        row_classes=found.kernels.row_classes if found.kernels is not None else (),
        attention_classes=found.kernels.attention if found.kernels is not None else (),
        threads=threads,
        restrictions=params.restrictions,
        memory=params.memory,
        spec_type=params.spec_type,
        n_verified=traits.n_verified,
        draft_model="" if drafting is None else drafting.name,
        draft_note=_why_no_draft(params, traits),
        rope=params.rope,
        placed=params.placed,
    )
    _log_loaded(info, params)
    return Loaded(model, context, traits, info, drafting)


def _why_no_draft(params: LoadParams, traits: Traits) -> str:
    """Why the draft model that was asked for does nothing; "" where there is none, or it does."""
    if params.draft is None:
        return ""
    if params.spec_type == "none":
        return NO_SPECULATION
    return "" if traits.n_verified else NO_DRAFTS


def _name(params: LoadParams) -> str:
    return params.name or params.path.name


def _v_is_quantized(params: LoadParams) -> bool:
    name = _name(params)
    for kind in (params.type_k, params.type_v):
        if kind not in KV_TYPES:
            raise ModelError(f"Cannot load the model {name}: no KV cache type {kind}; there are {', '.join(KV_TYPES)}")
    quantized = params.type_v not in UNQUANTIZED
    if quantized and params.flash_attn == "off":
        raise ModelError(
            f"Cannot load the model {name}: a V cache of type {params.type_v} needs flash attention, which is off"
        )
    return quantized


def _context(model: Model, shape: ContextParams, name: str) -> Steps[Context]:
    """A context, made on another thread so that nobody waits for it."""
    return (yield from done_aside(lambda: Context(model, shape, name), lambda made: made.close()))


def _calibrate(
    params: LoadParams, model: Model, shape: ContextParams, n_cores: int, is_shared: bool
) -> Steps[Calibration]:
    """The calibration of the model, recalled, or measured in a context of its own and kept."""
    quantized = _v_is_quantized(params)
    wants_kernels = measures(params.exact_mode, params.allowed_flash_attn, quantized)
    wants_speeds = params.n_threads == 0 and n_cores > 1
    # A lone row is compared with two, also where there will be one slot.
    n_streams = max(2, params.n_slots or MAX_SLOTS) if wants_kernels and not params.memory.one_stream else 1
    flash_attn = quantized or not (wants_kernels or params.allowed_flash_attn == "off")
    n_outputs = max(n_streams, shape.n_rows) if params.memory.all_outputs else 0
    n_verified = params.n_verified if wants_kernels else 0
    shape = replace(shape, n_streams=n_streams, flash_attn=flash_attn, n_outputs=n_outputs, n_verified=n_verified)
    where = params.calibration_file if params.model_id else None
    build = library_id(), params.restrictions.key, *params.placed.key
    key = kept.key_of(params.model_id.hex(), build, cpu_name(), n_cores, astuple(shape))
    found = kept.recall(where, key)
    lacks_kernels = wants_kernels and found.kernels is None
    lacks_speeds = wants_speeds and (found.speeds is None or calibration.are_absurd(found.speeds))
    if not (lacks_kernels or lacks_speeds):
        return found
    if lacks_speeds:
        found = yield from _measured_speeds(params, model, shape, n_cores, found)
    if lacks_kernels:
        with_threads = replace(shape, n_threads=_threads(params, found, n_cores).n)

        def kernels() -> Generator[None, None, Kernels]:
            context = Context(model, with_threads, _name(params))
            try:
                return (yield from calibration.measure_kernels(context, model.n_vocab, model.n_params))
            finally:
                context.close()

        found = replace(found, kernels=(yield from computed_aside(kernels) if is_shared else kernels()))
    kept.keep(where, key, found)
    return found


def _measured_speeds(
    params: LoadParams, model: Model, shape: ContextParams, n_cores: int, found: Calibration
) -> Steps[Calibration]:
    context = yield from _context(model, shape, _name(params))
    try:
        speeds = yield from calibration.measure_threads(context, calibration.thread_counts(n_cores))
    finally:
        context.close()
    return replace(found, speeds=speeds.by_count, are_quiet=speeds.are_quiet)


def _threads(params: LoadParams, found: Calibration, n_cores: int) -> Threads:
    if params.n_threads > n_cores:
        return Threads(n_cores, f"{params.n_threads} were asked for, there are {n_cores} cores", {})
    if params.n_threads:
        return Threads(params.n_threads, "asked for", {})
    if not found.speeds:
        return Threads(1, "there is one core", {})
    why = "measured: the fastest for one chat" if found.are_quiet else BUSY
    return Threads(calibration.best_threads(found.speeds), why, found.speeds)


def _look(
    model: Model, shape: ContextParams, policy: Policy, kernels: Kernels | None, params: LoadParams
) -> Steps[Traits]:
    """Find out in a small context of the same kind how the model's memory works."""
    context = yield from _context(model, shape, _name(params))
    memory = params.memory
    try:
        context.decode([0] * _PROBE_TOKENS, range(_PROBE_TOKENS), [1 % model.n_vocab] * _PROBE_TOKENS, [])
        blob = context.state(0)
        n_bytes = len(blob)
        try:
            layout: Layout | None = parse(blob)[0]
        except KvRowsError:
            layout = None
        context.decode([0], [_PROBE_TOKENS], [0], [])
        grown = len(context.state(0)) - n_bytes
        rolls_back = context.remove(0, _PROBE_TOKENS)
        n_bytes = layout.bytes_per_token if layout else max(grown, 0)
        cuts_tails = rolls_back and layout is not None and memory.no_states is None and not memory.all_outputs
        return Traits(
            layout=layout if memory.no_states is None else None,
            rolls_back=rolls_back,
            needs_pairs=policy.needs_pairs,
            kv_bytes_per_token=n_bytes,
            chunk=policy.chunk,
            joins_prompts=cuts_tails and joins_prompts(policy, kernels),
            fills_gaps=cuts_tails and policy.max_rows is None and not policy.needs_pairs,
            all_outputs=memory.all_outputs,
            keeps_states=memory.no_states is None,
            reads_in_place=params.reads_in_place,
            n_verified=min(params.n_verified, kernels.n_verified) if cuts_tails and kernels is not None else 0,
        )
    finally:
        context.close()


def default_ram_bytes() -> int:
    """An eighth of the available memory, at most 1 GiB."""
    return min(available_bytes() // 8, 1 << 30)


def _slots_by_memory(bytes_per_slot: int, room: int, policy: Policy) -> int:
    """As many slots as a part of the available memory has room for, between 1 and MAX_SLOTS."""
    n_bytes = max(0, room) // SPARE_SHARE
    return max(1, min(policy.max_slots or MAX_SLOTS, MAX_SLOTS, n_bytes // max(bytes_per_slot, 1)))


def _kind(layout: Layout | None) -> str:
    if layout is None:
        return "whole: rows of single tokens cannot be stored, chats go on from their tokens"
    return "rows, V transposed" if layout.v_transposed else "rows"


def _log_loaded(info: EngineInfo, params: LoadParams) -> None:
    policy, threads = info.policy, info.threads
    if params.n_threads > threads.n:
        log.warning("more threads than cores would slow everything down", asked=params.n_threads, threads=threads.n)
    if info.placed.without_effect:
        log.warning("flags without effect", model=info.name, why=info.placed.without_effect)
    if info.draft_note:
        log.warning("the draft model is without effect", model=info.name, why=info.draft_note)
    for note in info.memory.notes:
        log.warning("the model's memory is not used as usual", model=info.name, why=note)
    log.info(
        "engine ready",
        model=info.description,
        exact=policy.is_exact,
        why=policy.why,
        row_classes=" ".join("-".join(map(str, members)) for members in info.row_classes) or None,
        max_rows=policy.max_rows,
        flash_attn=policy.flash_attn,
        threads=threads.n,
        tokens_per_second={n: round(speed, 1) for n, speed in threads.speeds.items()} or None,
        slots=info.n_slots,
        n_ctx=info.n_ctx,
        devices="; ".join(info.placed.devices) or None,
    )


def _descriptor(
    layout: Layout | None, rope: RopeParams, policy: Policy, restrictions: Restrictions, placed: Placed
) -> bytes:
    """Names what rows depend on beside model and tokens. Rows with the same descriptor fit.

    Rows that were computed in exact mode are worth more than others, so they have another descriptor.
    """
    if layout is None:
        return b""
    bits: object = policy.flash_attn
    if policy.is_exact:
        bits = policy.flash_attn, policy.needs_pairs, astuple(policy.chunk)
    elif not policy.repeats_cut:
        bits = policy.flash_attn, astuple(policy.chunk)
    if not restrictions.extra_buffers:
        bits = bits, "no extra buffers"  # other kernels, other last bits
    if placed.is_offloaded:
        bits = bits, placed.key
    return hashlib.sha256(layout.digest + repr((astuple(rope), bits)).encode()).digest()
