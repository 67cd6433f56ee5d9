"""From a model file and settings to a context that is ready: what is asked, what is chosen, what was found out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np

from canister.engine.args import RopeParams
from canister.engine.kv_rows import KvRowsError, Layout, parse
from canister.engine.llama import KV_TYPES, UNQUANTIZED, Context, ContextParams, Model, ModelError, start_backend
from canister.engine.runner import DUMMY_CELLS, Traits
from canister.engine.scheduler import ALONE

MAX_SLOTS = 8  # when they are chosen by memory
MAX_CELLS = 2**31 - 1  # llama.cpp counts positions in 32 bits
TINY_MODEL_BYTES = 50_000_000  # one thread is best up to here
MIN_ROWS = 64  # of a physical batch
CELLS_STEP = 256  # llama.cpp pads the cells of a stream to a multiple
_PROBE_TOKENS = 8


@dataclass(frozen=True, slots=True)
class LoadParams:
    """What a model is loaded with; 0 means: choose.

    name: what to call the file in messages. model_id: SHA-256 of the file. n_ctx: tokens of a conversation, 0 the
    model's own. n_slots: conversations in the KV memory, 0 by memory. n_threads: 0 all cores, one for tiny models.
    ram_bytes: memory for the states of conversations that lost their slot.
    max_pause_ms: between two tokens of a call while the prompts of others are decoded.
    """

    path: Path
    name: str = ""
    model_id: bytes = b""
    n_ctx: int = 0
    n_batch: int = 2048
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: str = "auto"  # on, off, auto: on only if V is quantized, which needs it
    rope: RopeParams = field(default_factory=RopeParams)
    n_slots: int = 0
    n_threads: int = 0
    ram_bytes: int = 0
    max_pause_ms: int = 200


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """A loaded model and its context.

    n_ctx: as asked; a conversation is full when it holds so many tokens. kv_layout: what stored KV rows must be of
    to fit; b"" when this model's rows cannot be stored.
    """

    name: str
    model_id: bytes
    model_bytes: int
    description: str
    file_type: str
    chat_template: str | None
    n_params: int
    n_vocab: int
    n_ctx_train: int
    add_bos: bool
    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_slots: int
    n_threads: int
    type_k: str
    type_v: str
    flash_attn: bool
    can_shift: bool
    kv_bytes_per_token: int
    kv_layout: bytes


@dataclass(slots=True)
class Loaded:
    """A model and a context of it, for the engine's thread."""

    model: Model
    context: Context
    traits: Traits
    info: EngineInfo


def load(params: LoadParams) -> Loaded:
    """Load the model and make its context; ModelError. To be called on the thread that will decode."""
    start_backend()
    name = params.name or params.path.name
    flash_attn = _flash_attn(params, name)
    try:
        model_bytes = params.path.stat().st_size
    except OSError as error:
        raise ModelError(f"Cannot load the model {name}: {error.strerror}") from error
    model = Model(params.path, name)
    n_ctx = params.n_ctx or model.n_ctx_train
    if n_ctx < 1:
        raise ModelError(f"Cannot load the model {name}: its context length is {n_ctx} tokens; give --ctx-size")
    n_threads = params.n_threads or (1 if model_bytes < TINY_MODEL_BYTES else len(os.sched_getaffinity(0)))
    shape = ContextParams(
        n_streams=2,
        n_cells=CELLS_STEP,
        n_rows=max(MIN_ROWS, min(params.n_ubatch, params.n_batch, n_ctx, ALONE)),
        n_threads=n_threads,
        type_k=params.type_k,
        type_v=params.type_v,
        flash_attn=flash_attn,
        rope=params.rope,
    )
    traits = _probe(model, shape, name)
    n_cells = -(-(n_ctx + DUMMY_CELLS) // CELLS_STEP) * CELLS_STEP
    n_slots = params.n_slots or _slots_by_memory(n_cells * traits.kv_bytes_per_token)
    n_streams = max(n_slots, 2) if traits.needs_pairs else n_slots
    if n_streams * n_cells > MAX_CELLS:
        raise ModelError(
            f"Cannot make a context for the model {name}: {n_streams} chats of {n_ctx} tokens are more than llama.cpp "
            "can count; give a smaller --ctx-size"
        )
    shape = ContextParams(
        # Where a lonely row needs a neighbour, there is one.
        n_streams=n_streams,
        n_cells=n_cells,
        n_rows=max(shape.n_rows, n_slots),
        n_threads=n_threads,
        type_k=params.type_k,
        type_v=params.type_v,
        flash_attn=flash_attn,
        rope=params.rope,
    )
    context = Context(model, shape, name)
    info = EngineInfo(
        name=name,
        model_id=params.model_id,
        model_bytes=model_bytes,
        description=model.description,
        file_type=model.file_type,
        chat_template=model.chat_template,
        n_params=model.n_params,
        n_vocab=model.n_vocab,
        n_ctx_train=model.n_ctx_train,
        add_bos=model.add_bos,
        n_ctx=n_ctx,
        n_batch=params.n_batch,
        n_ubatch=params.n_ubatch,
        n_slots=n_slots,
        n_threads=n_threads,
        type_k=params.type_k,
        type_v=params.type_v,
        flash_attn=flash_attn,
        can_shift=context.can_shift and traits.rolls_back,
        kv_bytes_per_token=traits.kv_bytes_per_token,
        kv_layout=_descriptor(traits.layout, params.rope, flash_attn),
    )
    return Loaded(model, context, traits, info)


def _flash_attn(params: LoadParams, name: str) -> bool:
    for kind in (params.type_k, params.type_v):
        if kind not in KV_TYPES:
            raise ModelError(f"Cannot load the model {name}: no KV cache type {kind}; there are {', '.join(KV_TYPES)}")
    quantized = params.type_v not in UNQUANTIZED
    if quantized and params.flash_attn == "off":
        raise ModelError(
            f"Cannot load the model {name}: a V cache of type {params.type_v} needs flash attention, which is off"
        )
    return params.flash_attn == "on" or quantized


def _probe(model: Model, shape: ContextParams, name: str) -> Traits:
    """Find out, in a small context of the same kind, how memory and kernels of the model behave.

    Kernels differ from CPU to CPU and from type to type; so they are compared, not looked up.
    """
    context = Context(model, shape, name)
    try:
        tokens = [(7 * i + 1) % model.n_vocab for i in range(_PROBE_TOKENS + 1)]
        for stream in (0, 1):
            context.decode([stream] * _PROBE_TOKENS, range(_PROBE_TOKENS), tokens[:-1], [])
        blob = context.state(0)
        n_bytes = len(blob)
        try:
            layout: Layout | None = parse(blob)[0]
        except KvRowsError:
            layout = None
        context.decode([0], [_PROBE_TOKENS], tokens[-1:], [0])
        alone = context.logits(0).copy()
        grown = len(context.state(0)) - n_bytes
        rolls_back = context.remove(0, _PROBE_TOKENS)
        needs_pairs = False
        if rolls_back:
            context.decode([0, 1], [_PROBE_TOKENS] * 2, tokens[-1:] * 2, [0, 1])
            needs_pairs = not np.array_equal(alone, context.logits(0))
        return Traits(layout, rolls_back, needs_pairs, layout.bytes_per_token if layout else max(grown, 0))
    finally:
        context.close()


def default_ram_bytes() -> int:
    """An eighth of the memory that is available now, at most 1 GiB."""
    return min(available_bytes() // 8, 1 << 30)


def _slots_by_memory(bytes_per_slot: int) -> int:
    """As many as a quarter of the memory that is available now has room for, within 1 and MAX_SLOTS."""
    return max(1, min(MAX_SLOTS, available_bytes() // 4 // max(bytes_per_slot, 1)))


def available_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _descriptor(layout: Layout | None, rope: RopeParams, flash_attn: bool) -> bytes:
    """Names what rows depend on beside model and tokens. Same descriptor: they fit."""
    if layout is None:
        return b""
    return hashlib.sha256(layout.digest + repr((astuple(rope), flash_attn)).encode()).digest()
