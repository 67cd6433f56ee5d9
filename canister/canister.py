"""One canister: its identity, committed state, stable memory and engine; how it starts and how it stops.

It offers what handlers need through their Call and holds everything that lives longer than one call. It decides
nothing about methods or callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from canister import admission, quota, telemetry
from canister import state as states
from canister.admission import Admission
from canister.caches import Caches
from canister.chat_texts import ChatTexts
from canister.chats import Chats
from canister.config import Settings
from canister.controllers import Controllers
from canister.cost_model import CostModel
from canister.engine.args import RunArgs, parse
from canister.engine.decode_thread import DecodeThread
from canister.engine.engine import Engine, LoadParams
from canister.engine.gguf import read_gguf
from canister.engine.loading import default_ram_bytes
from canister.engine.report import report
from canister.engine.trial import Trials, path_of_descriptor
from canister.errors import (
    BadRequest,
    CanisterError,
    CanisterStopped,
    CanisterStopping,
    CanisterUnavailable,
    Conflict,
    NotFound,
)
from canister.estimate import context_of
from canister.ingress import Ingress
from canister.ledger import INITIAL_CYCLES, Ledger
from canister.locks import Gate, NamedLocks
from canister.model_shape import read_shape
from canister.roles import Roles
from canister.shipped import shipped_sha256
from canister.state import State
from canister.store import tables
from canister.store.db import Database
from canister.store.paths import clean_folder, clean_path
from canister.store.stable import FileInfo, StableMemory
from canister.store.statements import Prepared
from canister.store.transaction import Transaction
from canister.store.uploads import UploadHasher
from canister.telemetry import get_logger

if TYPE_CHECKING:
    from canister.call import Call

log = get_logger(__name__)

Params = ParamSpec("Params")
T = TypeVar("T")

STORING_BLOCKS = 2  # of uploads as streams, at once
FILE_THREADS = 2  # that read for downloads, and for hashes of uploads that go on
FINDINGS_NAME = "engine.json"  # what was measured of models; may be deleted at any time
BASE_HEAP_BYTES = 82_000_000  # what the original's wasm heap holds besides model, KV cache and output buffer


_SETTING = insert(tables.settings)
_SET = Prepared(
    _SETTING.on_conflict_do_update(index_elements=["key"], set_={"value": _SETTING.excluded.value}), "key", "value"
)


class Canister:
    """folder: holds `canister.db`, `stable/`, `staging/` and `engine.json`. controllers: principals in text form.

    cycles, state: what it begins with. decode_thread: shared with others; None: its engine has one of its own.
    """

    def __init__(
        self,
        canister_id: str,
        name: str,
        folder: Path,
        controllers: Iterable[str],
        settings: Settings,
        *,
        cycles: int = INITIAL_CYCLES,
        state: Mapping[str, object] | None = None,
        decode_thread: DecodeThread | None = None,
    ) -> None:
        self.id = canister_id
        self.name = name
        self.folder = folder
        self.settings = settings.of(name)
        self.database = Database(folder / "canister.db", "canister")
        self.controllers = Controllers(self.database, controllers)
        self.stable = StableMemory(folder / "stable", folder / "staging", self.database)
        self.state = states.changed(State(), state or {})
        self.roles = Roles(self.database)
        self.ledger = Ledger(self.database, cycles)
        self.ingress = Ingress(self.database)
        self.chats = Chats(self.database)
        self.uploads = UploadHasher(self.stable)
        self.caches = Caches(self.stable)
        self.admission = Admission(canister_id, admission.of_calls(self.settings))
        self.streams = Admission(canister_id, admission.of_streams(self.settings))
        self.texts = ChatTexts()
        # Streams keep to a few threads, so that the commits of chats find free ones.
        self.storing = asyncio.Semaphore(STORING_BLOCKS)
        self._file_threads = ThreadPoolExecutor(FILE_THREADS, f"files {name}")
        self.trials = Trials(folder / "tried", shipped_sha256())
        self.locks = NamedLocks()
        self.model_gate = Gate()
        self.engine: Engine | None = None
        self._decode_thread = decode_thread
        self.load_error: str | None = None
        self.fault: CanisterError | None = None  # why it could not be opened
        self.cost_model: CostModel | None = None  # of the loaded model
        self._engine_key: _EngineKey | None = None
        self._known: dict[Engine, tuple[_EngineKey, CostModel]] = {}  # of engines that are not adopted yet
        self._loading: asyncio.Task[None] | None = None
        self._calls: dict[Call, asyncio.Task[object] | None] = {}
        self._call_over = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._halting = False  # `stop_canister` waits for the calls that run
        self._background: set[asyncio.Task[None]] = set()

    # -- life

    async def start(self) -> None:
        """Open the store, finish or undo what a crash left half done, and begin to load the model again.

        A canister that cannot be opened raises why, and answers every call with it from then on, until it is stopped.
        """
        try:
            await asyncio.to_thread(self._open)
        except CanisterError as error:
            self.fault, self.load_error = error, str(error)
            await asyncio.to_thread(self._close)
            raise
        if self.state.model_args is not None:
            self._loading = asyncio.create_task(self._load_again(self.state.model_args))

    def _open(self) -> None:
        self.database.open()
        recovery = self.stable.recover()
        for damage in recovery.damaged:
            log.error("a file is damaged", canister=self.name, path=damage.path, n_bytes=damage.n_found)
        with self.database.read() as connection:
            rows = connection.execute(select(tables.settings.c.key, tables.settings.c.value)).all()
        self.state = states.from_rows(((row.key, row.value) for row in rows), self.state)
        self.controllers.load()
        self.roles.load()
        self.ledger.load()

    async def _load_again(self, model_args: tuple[str, ...]) -> None:
        try:
            args = parse(model_args)
            self.adopt(await self.load_engine(args))
        except CanisterError as error:
            self.load_error = str(error)
            log.error("the model could not be loaded again", canister=self.name, reason=str(error))

    async def stop(self, drain_seconds: float) -> None:
        """Refuse new calls, give running ones some time, cancel what is left, and close."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_seconds)
        for task in [task for task in self._calls.values() if task is not None]:
            task.cancel()
        await self._idle.wait()
        await self.ingress.finished()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        if self.engine is not None:
            await self.engine.close()
            self.engine = None
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._file_threads.shutdown()
        self.stable.close()
        self.database.close()

    @contextlib.contextmanager
    def running(self, call: Call) -> Iterator[None]:
        """Counts a call among the running ones, for draining."""
        self.check_available()
        if self._stopping:
            raise CanisterStopping(f"Error from Canister {self.id}: Canister {self.id} is stopping; try again later")
        self._calls[call] = asyncio.current_task()
        self._idle.clear()
        try:
            yield
        finally:
            del self._calls[call]
            self._call_over.set()
            if not self._calls:
                self._idle.set()

    @property
    def is_idle(self) -> bool:
        """True while no call runs, nor waits for its turn."""
        return not (self._calls or self.admission.n_running or self.admission.n_waiting)

    def check_available(self) -> None:
        """Raises CanisterUnavailable: its files could not be opened."""
        if self.fault is not None:
            raise CanisterUnavailable(f"Canister {self.id} is not available: {self.fault}") from self.fault

    def check_started(self) -> None:
        """Raises CanisterStopped or CanisterStopping: `stop_canister` was called, or the server is being stopped."""
        if self.state.is_stopped:
            raise CanisterStopped(f"Canister {self.id} is stopped")
        if self._halting or self._stopping:
            raise CanisterStopping(f"Canister {self.id} is stopping")

    async def others_done(self, call: Call) -> None:
        """Let no other calls begin until this one is over, and wait for those that run."""

        def over() -> None:
            self._halting = False

        self._halting = True
        call.on_commit(over)
        call.on_rollback(over)
        others = [other for other in self._calls if other is not call]
        while any(other in self._calls for other in others):
            self._call_over.clear()
            await self._call_over.wait()

    # -- what is known

    @property
    def status(self) -> str:
        """running, stopping or stopped."""
        if self.state.is_stopped:
            return "stopped"
        return "stopping" if self._stopping or self._halting else "running"

    @property
    def access_level(self) -> int:
        return self.state.access_level

    @property
    def ready(self) -> bool:
        """True when every model that should be loaded is loaded."""
        return self._loading is None or self._loading.done()

    def summary(self) -> dict[str, object]:
        """What anybody may know."""
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status,
            "ready": self.engine is not None,
            "model": self.engine.info.description if self.engine is not None else None,
        }

    def observed(self) -> dict[str, float]:
        """What the metrics say of it: telemetry.OBSERVED."""
        values: dict[str, float] = {
            "canister_ready": self.ready and self.load_error is None,
            "canister_calls_running": self.admission.n_running,
            "canister_calls_waiting": self.admission.n_waiting,
            "canister_streams_running": self.streams.n_running,
            "canister_cycle_balance": self.ledger.cycles,
            "canister_stable_bytes": self.stable.total_bytes(),
        }
        engine = self.engine
        if engine is None:
            return values
        stats = engine.stats()
        return values | {
            "canister_engine_slots": stats.n_slots,
            "canister_engine_resident": stats.n_resident,
            "canister_engine_kv_tokens": sum(engine.residents().values()),
            "canister_engine_kv_capacity_tokens": stats.n_slots * engine.info.n_ctx,
            "canister_engine_running": stats.n_running,
            "canister_engine_waiting": stats.n_waiting,
            "canister_engine_steps_total": stats.n_steps,
            "canister_engine_rows_total": stats.n_rows,
            "canister_engine_prompt_tokens_total": stats.n_prompt_tokens,
            "canister_engine_slot_tokens_total": stats.sources.slot,
            "canister_engine_memory_tokens_total": stats.sources.memory,
            "canister_engine_disk_tokens_total": stats.sources.disk,
            "canister_engine_shared_tokens_total": stats.sources.shared,
            "canister_engine_parked": stats.n_parked,
            "canister_engine_parked_bytes": stats.parked_bytes,
            "canister_engine_busy_seconds_total": stats.busy_seconds,
        }

    def engine_report(self) -> dict[str, object]:
        """How the loaded model is run, and what the engine is doing; without one, why there is none."""
        if self.engine is None:
            return {"model": None, "reason": self.load_error or ("none" if self.ready else "it is being loaded")}
        return report(self.engine.info, self.engine.stats())

    def heap_bytes(self) -> int:
        """Wasm heap that the loaded model would take on the IC (rough: the cost model's formula)."""
        return BASE_HEAP_BYTES if self.cost_model is None else self.cost_model.heap_bytes

    # -- committing

    def record(self, transaction: Transaction, changes: Mapping[str, object]) -> None:
        """Make changes of the State durable when this transaction commits."""
        for row in states.to_rows(changes):
            transaction.execute(_SET, row)

    def apply(self, changes: Mapping[str, object]) -> None:
        """Make committed changes of the State visible."""
        self.state = states.changed(self.state, changes)

    async def commit(self, transaction: Transaction) -> None:
        """File bytes, fsync, one SQL transaction, renames. Raises what went wrong; then nothing has changed."""
        with telemetry.committing(self.name):
            future = None
            if transaction.is_small:
                quota.check(self.stable, transaction.growth(), self.settings)
                future = transaction.commit_small()
            if future is None:
                await asyncio.to_thread(transaction.prepare)
                quota.check(self.stable, transaction.growth(), self.settings)
                future = transaction.commit()
            await asyncio.wrap_future(future)

    async def rollback(self, transaction: Transaction) -> None:
        """Take away what was prepared; nothing happens after a commit."""
        await asyncio.to_thread(transaction.rollback)

    # -- the model

    async def loaded(self) -> None:
        """Wait until the model that was loaded before a restart is back, or could not be loaded."""
        if self._loading is not None and not self._loading.done():
            await asyncio.shield(self._loading)

    def is_loaded_from(self, path: str) -> bool:
        """Is this file of stable memory the loaded model?"""
        known = self.stable.stat(path)
        return known is not None and self._engine_key is not None and self._engine_key.file_id == known.id

    def is_loaded_with(self, args: RunArgs) -> bool:
        """Is the model of these flags loaded already, with the same context?"""
        known = self.stable.stat(args.model or "")
        return known is not None and self._engine_key == _EngineKey.of(known, args)

    async def load_engine(self, args: RunArgs) -> Engine:
        """A new engine for the model and context of these flags; the one in use stays. NotFound, BadRequest.

        The file is loaded here only after a child process has survived loading the same bytes.
        """
        path = args.model or ""
        known = self.stable.stat(path)
        if known is None or known.kind != "file":
            raise NotFound(f"cannot load model {path}: there is no such file in stable memory; upload it first")
        file = self.stable.physical(path)
        cost_model = await self._cost_model(file, path, args)
        params = LoadParams(
            path=file,
            name=path,
            model_id=await self._model_id(path, file),
            n_ctx=args.ctx_size,
            n_batch=args.batch_size,
            n_ubatch=args.ubatch_size,
            type_k=args.cache_type_k,
            type_v=args.cache_type_v,
            flash_attn=args.flash_attn,
            rope=args.rope,
            n_slots=self.settings.slots,
            n_threads=self.settings.threads,
            ram_bytes=default_ram_bytes() if self.settings.ram_cache is None else self.settings.ram_cache,
            max_pause_ms=self.settings.max_pause_ms,
            exact=self.settings.exact,
            findings=self.folder / FINDINGS_NAME,
        )
        # Held open, so that what was tried is what is loaded, even if another file takes its name meanwhile.
        opened = await asyncio.to_thread(self.stable.open_file, path)
        try:
            if opened.info != known:
                raise Conflict(f"cannot load model {path}: it was changed meanwhile; load it again")
            params = dataclasses.replace(params, path=path_of_descriptor(opened.fd, file))
            await self.trials.check(params, opened.fd)
            engine = await Engine.load(params, self._decode_thread)
        finally:
            os.close(opened.fd)
        self._known[engine] = _EngineKey.of(known, args), cost_model
        return engine

    async def _cost_model(self, file: Path, path: str, args: RunArgs) -> CostModel:
        """What calls on this model cost, from the file's header and tensor list."""
        try:
            header = await asyncio.to_thread(read_gguf, file)
            shape = read_shape(header)
        except BadRequest as error:
            raise BadRequest(f"cannot load model {path}: {error}") from error
        if header.metadata.get("split.count", 1) != 1:
            # llama.cpp would open the others by their names, whatever they hold by then.
            raise BadRequest(f"cannot load model {path}: it is split; join its parts: llama-gguf-split --merge")
        return CostModel(shape, context_of(args, shape), self.settings.page_cost)

    def cost_model_of(self, engine: Engine) -> CostModel:
        """What calls on this engine cost: the loaded one, or one that a call is just loading."""
        if engine is self.engine and self.cost_model is not None:
            return self.cost_model
        return self._known[engine][1]

    async def _model_id(self, path: str, file: Path) -> bytes:
        """SHA-256 of the model file: known from its upload, else computed."""
        upload, known = self.stable.upload(path), self.stable.stat(path)
        if upload is not None and known is not None and upload.size == known.size:
            return bytes.fromhex(upload.sha256)

        def digest() -> bytes:
            with file.open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").digest()

        return await asyncio.to_thread(digest)

    def adopt(self, engine: Engine) -> None:
        """Use this engine from now on, and close the one before."""
        before, self.engine = self.engine, engine
        self._engine_key, self.cost_model = self._known.pop(engine)
        self.load_error = None
        self.caches.clear()
        self.texts.clear()
        if before is not None:
            self.discard(before)
        log.info("model loaded", canister=self.name, model=engine.info.description, n_ctx=engine.info.n_ctx)

    def discard(self, engine: Engine) -> None:
        """Close an engine that is not in use, in the background."""
        self._known.pop(engine, None)
        task = asyncio.get_running_loop().create_task(engine.close())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- files

    clean = staticmethod(clean_path)
    clean_folder = staticmethod(clean_folder)

    def forget_when_committed(self, call: Call, path: str) -> None:
        """The file at `path` changes otherwise than by a run: drop what is remembered of it."""
        clean = self.clean(path)

        def forget() -> None:
            self.caches.drop(clean)
            if self.engine is not None:
                self.engine.forget(clean)

        call.on_commit(forget)

    async def in_file_thread(self, work: Callable[Params, T], *args: Params.args, **named: Params.kwargs) -> T:
        """Do something with a large file, where it is in nobody's way."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._file_threads, partial(work, *args, **named))

    async def read_blocks(self, path: str, first: int, end: int, size: int) -> AsyncIterator[bytes]:
        """Bytes first…end of a file as it is now, in blocks; removal or replacement meanwhile does not matter."""
        opened = await self.in_file_thread(self.stable.open_file, path)
        try:
            while first < end:
                block = await self.in_file_thread(os.pread, opened.fd, min(size, end - first), first)
                if not block:
                    return
                first += len(block)
                yield block
        finally:
            os.close(opened.fd)


class _EngineKey(NamedTuple):
    """What a model was loaded from and with; the same key, the same engine."""

    file_id: int
    modified_ns: int
    context: tuple[object, ...]

    @classmethod
    def of(cls, file: FileInfo, args: RunArgs) -> _EngineKey:
        return cls(
            file.id,
            file.modified_ns,
            (
                args.ctx_size,
                args.batch_size,
                args.ubatch_size,
                args.cache_type_k,
                args.cache_type_v,
                args.flash_attn,
                args.rope,
            ),
        )
