"""From an embedding model and settings to a context that makes vectors: `loader.py` for models that write nothing."""

from __future__ import annotations

from time import perf_counter

from canister.engine.aside import Steps, done_aside, run_through
from canister.engine.batch_invariance import Policy
from canister.engine.devices import kv_room
from canister.engine.llama import Context, Model
from canister.engine.llama_types import UNQUANTIZED, ContextParams, ModelError
from canister.engine.load.loaded import EngineInfo, LoadedEmbedder, LoadParams, Threads
from canister.engine.load.loader import load_model
from canister.engine.load.memory_budget import CELLS_STEP, Need, check
from canister.engine.pages import trim_heap
from canister.flags.parse import RopeParams
from canister.system.machine import available_bytes, usable_cores
from canister.telemetry.logs import get_logger

N_TEXTS = 64  # of one decode
PACK_ROWS = 512  # of a decode of several texts; a longer text goes alone
FLASH_FROM = 2048  # rows of a decode; without flash attention their products take memory by the square
_LOOK_ROWS = 32

log = get_logger(__name__)


def load_embedder(params: LoadParams, model: Model | None = None) -> LoadedEmbedder:
    """All of it at once, or what comes after `load_model`, on this thread. Raises ModelError."""
    return run_through(prepare_embedder(params, model or load_model(params)))


def prepare_embedder(params: LoadParams, model: Model, mapped_bytes: int = 0) -> Steps[LoadedEmbedder]:
    """Make the context; ModelError. On the thread that will decode; yields what is to be done aside.

    mapped_bytes: of the model files of all engines of the process, which stay in memory although they count as
    available.
    """
    name = params.name or params.path.name
    n_ctx = _context_length(params, model, name)
    most = params.restrictions.max_rows
    if params.reads_whole and most and n_ctx > most:
        raise ModelError(
            f"Cannot load the model {name}: it reads a text of {n_ctx} tokens in one decode, and here a decode has at "
            f"most {most} rows; give --ctx-size {most} or less, or see 'canister doctor'"
        )
    n_rows = max(PACK_ROWS, n_ctx) if params.reads_whole else PACK_ROWS
    n_rows = min(n_rows, most) if most else n_rows
    # Of a text that is read in pieces the cells stay until its end, beside those of short ones.
    n_cells = -(-(n_rows if params.reads_whole else n_ctx + n_rows) // CELLS_STEP) * CELLS_STEP
    if not params.reads_whole:
        need = Need(n_ctx, n_cells, 1, params.kv_bytes // n_ctx, params.kv_bytes * n_cells // n_ctx)
        check(name, need, kv_room(params.placed, model.n_layers, available_bytes() - mapped_bytes))
    n_cores = usable_cores()
    threads = Threads(min(params.n_threads, n_cores) or n_cores, "asked for" if params.n_threads else "all cores", {})
    shape = ContextParams(
        n_streams=N_TEXTS,
        n_cells=n_cells,
        n_rows=n_rows,
        n_threads=threads.n,
        type_k=params.type_k,
        type_v=params.type_v,
        flash_attn=_flash_attn(params, n_rows),
        rope=params.rope,
        n_outputs=n_rows,
        pooling=params.pooling,
        offload_kv=params.placed.offloads_kv,
        is_offloaded=params.placed.is_offloaded,
    )
    yield None
    trim_heap()
    context = yield from done_aside(lambda: Context(model, shape, name), lambda made: made.close())
    seconds = _seconds(context, model.n_vocab)
    info = _info(params, model, n_ctx, threads, _policy(params, shape))
    log.info("engine ready", model=info.description, pooling=info.pooling, threads=threads.n, n_ctx=n_ctx)
    return LoadedEmbedder(model, context, info, seconds)


def _context_length(params: LoadParams, model: Model, name: str) -> int:
    """Tokens of the longest text."""
    n_ctx = params.n_ctx or model.n_ctx_train
    if n_ctx < 1:
        raise ModelError(f"Cannot load the model {name}: its context length is {n_ctx} tokens; give --ctx-size")
    if n_ctx > model.n_ctx_train > 0 and params.rope == RopeParams():
        raise ModelError(
            f"Cannot make a context of {n_ctx} tokens for the model {name}: it was trained on {model.n_ctx_train}; "
            f"give --ctx-size {model.n_ctx_train} or less, or the flags that stretch its RoPE"
        )
    return n_ctx


def _flash_attn(params: LoadParams, n_rows: int) -> bool:
    asked = params.allowed_flash_attn
    if asked != "auto" or params.type_v not in UNQUANTIZED:
        return asked == "on" or params.type_v not in UNQUANTIZED
    return n_rows > FLASH_FROM and "on" in params.ways_of_attention()


def _policy(params: LoadParams, shape: ContextParams) -> Policy:
    if params.exact_mode == "on":
        return Policy(True, "on: each text is decoded alone", shape.flash_attn, 1)
    return Policy(False, f"{params.exact_mode}: short texts are decoded together", shape.flash_attn)


def _seconds(context: Context, n_vocab: int) -> float:
    """That a row of a small decode takes."""
    n = min(_LOOK_ROWS, context.params.n_rows)
    started = 0.0
    for _ in range(2):  # the first wakes the threads
        started = perf_counter()
        context.embed([0] * n, range(n), [1 % n_vocab] * n)
        context.forget(0)
    return (perf_counter() - started) / n


def _info(params: LoadParams, model: Model, n_ctx: int, threads: Threads, policy: Policy) -> EngineInfo:
    return EngineInfo(
        name=params.name or params.path.name,
        model_id=params.model_id,
        model_bytes=params.n_file_bytes(),
        description=model.description,
        file_type=model.file_type,
        chat_template=None,
        bos_token=model.bos_token,
        eos_token=model.eos_token,
        fill_in=model.fill_in,
        n_params=model.n_params,
        n_vocab=model.n_vocab,
        vocab_type=model.vocab_type,
        n_embd=model.n_embd_out,
        weight_bytes=model.size_bytes,
        n_ctx_train=model.n_ctx_train,
        add_bos=model.add_bos,
        n_ctx=n_ctx,
        n_batch=params.n_batch,
        n_ubatch=params.n_ubatch,
        n_slots=N_TEXTS,
        n_threads=threads.n,
        type_k=params.type_k,
        type_v=params.type_v,
        flash_attn=policy.flash_attn,
        can_shift=False,
        kv_bytes_per_token=0 if params.reads_whole else params.kv_bytes // n_ctx,
        kv_layout=b"",
        kv_kind="none: texts leave nothing behind",
        policy=policy,
        row_classes=(),
        attention_classes=(),
        threads=threads,
        restrictions=params.restrictions,
        memory=params.memory,
        placed=params.placed,
        pooling=params.pooling,
        reads_whole=params.reads_whole,
    )
