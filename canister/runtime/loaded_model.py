"""The model that a canister serves: loaded from its stable memory, replaced by another, loaded again at a start.

It decides nothing about calls. Holders of its `gate` decide who may use or replace the model, and when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from canister.config import CanisterSettings
from canister.engine.crash_notes import CrashNotes
from canister.engine.devices import computing, devices, kv_room, reaching, settle
from canister.engine.drafting.drafter import spec_type
from canister.engine.engine import Engine, LoadParams
from canister.engine.info import report
from canister.engine.llama_types import Placed
from canister.engine.load import calibration_file
from canister.engine.load.loader import default_ram_bytes
from canister.engine.load.memory_budget import CELLS_STEP, Need, check
from canister.engine.load.trial import Trials, path_of_descriptor
from canister.engine.load.ways import weight_kinds
from canister.engine.thread import DecodeThread
from canister.errors import BadRequest, CanisterError
from canister.flags.parse import RunArgs, parse
from canister.metering.cost_model import CostContext, CostModel
from canister.metering.estimate import context_of
from canister.model_file.kind import Embedding, embedding_of
from canister.model_file.shape import FITTED, read_shape
from canister.runtime.draft_model import draft_params
from canister.runtime.locks import Gate
from canister.runtime.stored_model import StoredModel, files_of, find_model, model_id, opened_model
from canister.runtime.template_runner import TemplateRunner
from canister.store.stable import FileInfo, StableMemory
from canister.system.data_dir import TRIED
from canister.system.machine import available_bytes
from canister.telemetry.logs import get_logger

log = get_logger(__name__)

LOGITS_FILE_NAME = "engine.logits"  # logits from one server to the next; may be deleted at any time
BASE_HEAP_BYTES = 82_000_000  # in the original's wasm heap besides model, KV cache and output buffer


class ServedModel:
    """name: of the canister, for the log. folder: for `engine.logits`.

    replaced: called when another model takes the place of the loaded one, whose remembered texts are useless from then
    on.
    decode_thread: shared with others; None: each engine has its own. trials: shared with others; None: its notes lie in
    the folder.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        stable: StableMemory,
        settings: CanisterSettings,
        replaced: Callable[[], None],
        decode_thread: DecodeThread | None = None,
        trials: Trials | None = None,
    ) -> None:
        self._name = name
        self._folder = folder
        self._stable = stable
        self._page_cost = settings.page_cost
        self._settings = settings.engine
        self._replaced = replaced
        self._decode_thread = decode_thread
        self.gate = Gate()
        self.trials = trials or Trials(folder / TRIED)
        self.crashes = CrashNotes(folder)
        self.engine: Engine | None = None
        self.load_error: str | None = None
        self._refusal: str | None = None  # why the last model could not be loaded
        self.cost_model: CostModel | None = None  # of the loaded model
        self.title = ""  # the name that the loaded model's file gives itself
        self._engine_key: _EngineKey | None = None
        self.templates = TemplateRunner()  # renders the chat template of the loaded model
        self._known: dict[Engine, tuple[_EngineKey, CostModel, str]] = {}  # of engines not adopted yet
        self._loading: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    # -- life

    def begin_loading(self, model_args: tuple[str, ...]) -> None:
        """Begin to load the model that was loaded before a restart."""
        self._loading = asyncio.create_task(self._load_again(model_args))

    async def _load_again(self, model_args: tuple[str, ...]) -> None:
        try:
            args = parse(model_args)
            await self.check_crashes(args.model or "")
            self.adopt(await self._load_as_far_as_possible(args))
        except CanisterError as error:
            self.load_error = str(error)
            log.error("the model could not be loaded again", canister=self._name, reason=str(error))

    async def _load_as_far_as_possible(self, args: RunArgs) -> Engine:
        """After a restart: the model, also where its draft model is gone, without which it answers the same."""
        try:
            return await self.load(args)
        except CanisterError as error:
            if args.draft.model is None:
                raise
            engine = await self.load(replace(args, draft=replace(args.draft, model=None)))
            log.warning("the draft model could not be loaded again", canister=self._name, reason=str(error))
            return engine

    async def loaded(self) -> None:
        """Wait until the model that was loaded before a restart is back, or could not be loaded."""
        if self._loading is not None and not self._loading.done():
            await asyncio.shield(self._loading)

    async def close(self) -> None:
        """Stop loading, and free the loaded model."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        await self.templates.close()
        if self.engine is not None:
            await self.engine.close()
            self.engine = None
        self.crashes.close()

    async def check_crashes(self, path: str) -> None:
        """Conflict for a model that should be loaded only when somebody asks for it again."""
        stored = await find_model(self._stable, path)
        self.crashes.check(await model_id(self._stable, stored), path)

    # -- loading

    async def find(self, args: RunArgs) -> StoredModel:
        """The model of these flags in stable memory. NotFound, or BadRequest for a file that is no model for chats or
        embeddings.
        """
        stored = await find_model(self._stable, args.model or "")
        self._cost_model(stored, args)
        return stored

    async def load(self, args: RunArgs, stored: StoredModel | None = None) -> Engine:
        """A new engine for the model and context of these flags. The one in use stays. Raises NotFound, BadRequest.

        The file is loaded here only after a child process has survived loading the same bytes. stored: the answer of
        `find`.
        """
        stored = stored or await self.find(args)
        cost_model = self._cost_model(stored, args)
        embedding = embedding_of(stored.header)
        placed = await asyncio.to_thread(settle, args.placement, stored.path)
        if embedding is None:
            await asyncio.to_thread(self._check_room, stored.path, cost_model, placed)
        else:
            _check_positions(stored, args)
        key = _EngineKey.of(self._stable, args)
        identity = await model_id(self._stable, stored)
        with ExitStack() as held:
            parts = held.enter_context(opened_model(self._stable, stored))
            paths = [path_of_descriptor(part.fd, part.path) for part in parts]
            params = LoadParams(
                path=paths[0],
                more_paths=tuple(paths[1:]),
                name=stored.path,
                model_id=identity,
                n_ctx=args.ctx_size,
                n_batch=args.batch_size,
                n_ubatch=args.ubatch_size,
                type_k=args.cache_type_k,
                type_v=args.cache_type_v,
                flash_attn=args.flash_attn,
                rope=args.rope,
                placed=placed,
                n_slots=self._settings.slots,
                n_threads=self._settings.threads,
                ram_bytes=default_ram_bytes() if self._settings.ram_cache is None else self._settings.ram_cache,
                max_pause_ms=self._settings.max_pause_ms,
                exact=self._settings.exact,
                spec_type=spec_type(args.draft.spec_type or self._settings.spec_type),
                spec_draft_n_max=self._settings.spec_draft_n_max if args.draft.n_max is None else args.draft.n_max,
                spec_draft_n_min=args.draft.n_min,
                spec_draft_p_min=args.draft.p_min,
                kv_bytes=cost_model.kv_bytes,
                calibration_file=self.trials.folder / calibration_file.NAME,
                logits_file=self._folder / LOGITS_FILE_NAME,
                pooling="" if embedding is None else embedding.pooling,
                reads_whole=embedding is not None and embedding.reads_whole,
            )
            watch = self.crashes.of_model(identity)
            try:
                params = await self.trials.check(params, [part.fd for part in parts], weight_kinds(stored.header))
                draft = await draft_params(self._stable, self.trials, held, args)
                with watch.loading:
                    engine = await Engine.load(replace(params, draft=draft), self._decode_thread, watch)
            except CanisterError as error:
                self._refusal = str(error)
                raise
        self._known[engine] = key, cost_model, stored.header.text("general.name") or ""
        return engine

    def _cost_model(self, stored: StoredModel, args: RunArgs) -> CostModel:
        """What calls on this model cost, from its header and tensor list."""
        try:
            shape = read_shape(stored.header, may_embed=True)
            context = _context(embedding_of(stored.header), context_of(args, shape))
            return CostModel(shape, context, self._page_cost)
        except BadRequest as error:
            raise BadRequest(f"cannot load model {stored.path}: {error}") from error

    def _check_room(self, name: str, cost_model: CostModel, placed: Placed) -> None:
        """ModelError for a context that cannot fit, as far as the header makes that certain."""
        shape, n_ctx = cost_model.shape, cost_model.context.n_ctx
        if shape.architecture not in FITTED:
            return  # the trial will find out
        n_cells = -(-n_ctx // CELLS_STEP) * CELLS_STEP
        need = Need(n_ctx, n_cells, self._settings.slots or 1, cost_model.kv_bytes_per_token, cost_model.kv_bytes)
        mapped_bytes = 0 if self._decode_thread is None else self._decode_thread.mapped_bytes
        check(name, need, kv_room(placed, len(shape.layers), available_bytes() - mapped_bytes))

    def adopt(self, engine: Engine) -> None:
        """Use this engine from now on, and close the former one."""
        before, self.engine = self.engine, engine
        self._engine_key, self.cost_model, self.title = self._known.pop(engine)
        self.load_error = self._refusal = None
        self._replaced()
        if before is not None:
            self.discard(before)
        log.info("model loaded", canister=self._name, model=engine.info.description, n_ctx=engine.info.n_ctx)

    def drop(self) -> None:
        """Close the engine and forget that a model was loaded. No call may be using it."""
        before, self.engine = self.engine, None
        self._engine_key = self.cost_model = self.load_error = None
        self.title = ""
        self._replaced()
        if before is not None:
            self.discard(before)
        log.info("model unloaded", canister=self._name)

    def discard(self, engine: Engine) -> None:
        """Close an engine that is not in use, in the background."""
        self._known.pop(engine, None)
        task = asyncio.get_running_loop().create_task(engine.close())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- what is known

    @property
    def is_ready(self) -> bool:
        """True when the model is loaded, or could not be, or there is none to load."""
        return self._loading is None or self._loading.done()

    def is_loaded_from(self, path: str) -> bool:
        """Is this file of stable memory the loaded model?"""
        known = self._stable.stat(path)
        return known is not None and self._engine_key is not None and known.id in dict(self._engine_key.files)

    def is_loaded_with(self, args: RunArgs) -> bool:
        """Is the model of these flags loaded already, with the same context?"""
        return self._engine_key == _EngineKey.of(self._stable, args)

    def cost_model_of(self, engine: Engine) -> CostModel:
        """The costs of calls on this engine, which is the loaded one or one that a call is just loading."""
        if engine is self.engine and self.cost_model is not None:
            return self.cost_model
        return self._known[engine][1]

    def cost_context_of(self, engine: Engine | None) -> CostContext | None:
        """By what calls on this engine are charged; None for one that is gone, or none."""
        if engine is None or (engine is not self.engine and engine not in self._known):
            return None
        return self.cost_model_of(engine).context

    def heap_bytes(self) -> int:
        """Wasm heap that the loaded model would take on the IC (rough: the cost model's formula)."""
        return BASE_HEAP_BYTES if self.cost_model is None else self.cost_model.heap_bytes

    def report(self) -> dict[str, object]:
        """How the loaded model runs and what the engine is doing. Without an engine, why there is none."""
        if self.engine is None:
            reason = self._refusal or self.load_error or "none"  # the newest
            return {"model": None, "reason": reason if self.is_ready else "it is being loaded"}
        n_bytes = None if self.cost_model is None else self.cost_model.shape.file_bytes
        file = {"name": self.engine.info.name, "bytes": n_bytes}
        return {"file": file, **report(self.engine.info, self.engine.stats())}

    def observed(self) -> dict[str, float]:
        """The engine's metrics, if there is one."""
        engine = self.engine
        if engine is None:
            return {}
        stats = engine.stats()
        return {
            "canister_engine_slots": stats.n_slots,
            "canister_engine_resident": stats.n_resident,
            "canister_engine_kv_tokens": sum(engine.residents().values()),
            "canister_engine_kv_capacity_tokens": stats.n_slots * engine.info.n_ctx,
            "canister_engine_running": stats.n_running,
            "canister_engine_waiting": stats.n_waiting,
            "canister_engine_steps_total": stats.n_steps,
            "canister_engine_row_steps_total": stats.n_row_steps,
            "canister_engine_rows_total": stats.n_rows,
            "canister_engine_drafted_tokens_total": stats.n_drafted,
            "canister_engine_accepted_tokens_total": stats.n_accepted,
            "canister_engine_prompt_tokens_total": stats.n_prompt_tokens,
            "canister_engine_slot_tokens_total": stats.sources.slot,
            "canister_engine_memory_tokens_total": stats.sources.memory,
            "canister_engine_disk_tokens_total": stats.sources.disk,
            "canister_engine_shared_tokens_total": stats.sources.shared,
            "canister_engine_parked": stats.n_parked,
            "canister_engine_parked_bytes": stats.parked_bytes,
            "canister_engine_busy_seconds_total": stats.busy_seconds,
            **_device_memory(engine.info.placed),
        }


def _device_memory(placed: Placed) -> dict[str, float]:
    """Of the devices that compute layers, in all; nothing where the processor computes all of them."""
    if not placed.is_offloaded:
        return {}
    found = computing(devices())
    return {
        "canister_engine_device_free_bytes": sum(device.free_bytes for device in found),
        "canister_engine_device_bytes": sum(device.total_bytes for device in found),
    }


def _context(embedding: Embedding | None, context: CostContext) -> CostContext:
    """What the costs of calls depend on. Where a text is read both ways there is no KV cache, and nothing is rounded to
    its types.
    """
    is_uncached = embedding is not None and not embedding.is_causal
    return replace(context, type_k="f32", type_v="f32") if is_uncached else context


def _check_positions(stored: StoredModel, args: RunArgs) -> None:
    """BadRequest for more tokens than the model has positions for, beyond which llama.cpp would read."""
    header = stored.header
    table = next((tensor for tensor in header.tensors if tensor.name == "position_embd.weight"), None)
    wanted = args.ctx_size or header.integer(f"{header.architecture}.context_length") or 0
    if table is not None and len(table.shape) > 1 and wanted > table.shape[1]:
        raise BadRequest(
            f"cannot load model {stored.path}: it has {table.shape[1]} positions, and {wanted} tokens are wanted; give "
            f"--ctx-size {table.shape[1]} or less"
        )


class _EngineKey(NamedTuple):
    """What a model was loaded from and with. The same key gives the same engine."""

    files: tuple[tuple[int, int], ...]  # id and time of the last change
    context: tuple[object, ...]

    @classmethod
    def of(cls, stable: StableMemory, args: RunArgs) -> _EngineKey:
        return cls(
            _versions(files_of(stable, args.model or "")),
            (
                args.draft,
                _versions(files_of(stable, args.draft.model)) if args.draft.model is not None else (),
                args.ctx_size,
                args.batch_size,
                args.ubatch_size,
                args.cache_type_k,
                args.cache_type_v,
                args.flash_attn,
                args.rope,
                reaching(args.placement),
            ),
        )


def _versions(files: Sequence[FileInfo]) -> tuple[tuple[int, int], ...]:
    return tuple((file.id, file.modified_ns) for file in files)
