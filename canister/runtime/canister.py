"""One canister: its identity, committed state, stable memory and model, and how it starts and stops.

It offers what handlers need through their Call, and holds everything that lives longer than one call. It decides
nothing about methods or callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from canister.config import CanisterSettings
from canister.engine.load.trial import Trials
from canister.engine.thread import DecodeThread
from canister.errors import CanisterError, CanisterStopped, CanisterStopping, CanisterUnavailable
from canister.metering.fees import INITIAL_CYCLES
from canister.runtime import admission
from canister.runtime.admission import Admission
from canister.runtime.answer_caches import AnswerCaches
from canister.runtime.herd_side import HerdSide
from canister.runtime.ingress import Ingress
from canister.runtime.live_answers import LiveAnswers
from canister.runtime.loaded_model import ServedModel
from canister.runtime.locks import NamedLocks
from canister.runtime.news import News
from canister.runtime.receipts import ReceiptBook
from canister.runtime.running_calls import Counted, RunningCall, RunningCalls
from canister.runtime.stream_pacing import Pacing, unpaced
from canister.runtime.token_text import ChatTexts
from canister.state import quota
from canister.state import settings as states
from canister.state.answers import Answers
from canister.state.call_log import CallLog
from canister.state.controllers import Controllers
from canister.state.cycles import Ledger
from canister.state.ingress_history import IngressHistory
from canister.state.prompt_caches import Caches
from canister.state.receipts import Receipts
from canister.state.roles import Roles
from canister.state.saved_chats import Chats
from canister.state.settings import State
from canister.state.unit_of_work import UnitOfWork
from canister.store.database import Database
from canister.store.paths import clean_folder, clean_path
from canister.store.stable import StableMemory
from canister.store.transaction import Transaction
from canister.store.uploads import UploadHasher
from canister.system.data_dir import CANISTER_DATABASE, STABLE, STAGING
from canister.telemetry import metrics
from canister.telemetry.logs import get_logger

log = get_logger(__name__)

Params = ParamSpec("Params")
T = TypeVar("T")

STORING_BLOCKS = 2  # of uploads as streams, that are written at once
FILE_THREADS = 2  # that read for downloads, and for hashes of continued uploads


class Canister:
    """folder: holds `canister.db`, `stable/`, `staging/`, and the notes of the engine: `engine.logits` and others.

    controllers: principals in text form. cycles, state: what it begins with. decode_thread: shared with others; None:
    its engines have their own. pacing: of its streams, shared with others; None: they go as fast as they can.
    trials: of model files, shared with others; None: it has its own.
    """

    def __init__(
        self,
        canister_id: str,
        name: str,
        folder: Path,
        controllers: Iterable[str],
        settings: CanisterSettings,
        *,
        cycles: int = INITIAL_CYCLES,
        state: Mapping[str, object] | None = None,
        decode_thread: DecodeThread | None = None,
        pacing: Pacing | None = None,
        trials: Trials | None = None,
    ) -> None:
        self.id = canister_id
        self.name = name
        self.folder = folder
        self.settings = settings
        self.database = Database(folder / CANISTER_DATABASE, "canister")
        self.controllers = Controllers(self.database, controllers)
        self.stable = StableMemory(folder / STABLE, folder / STAGING, self.database)
        self.state = states.changed(State(), state or {})
        self.roles = Roles(self.database)
        self.ledger = Ledger(self.database, cycles)
        self.ingress = Ingress(IngressHistory(self.database))
        self.call_log = CallLog(self.database)
        self.logged = News()  # of calls
        self.receipts = Receipts(self.database, settings.keep_receipts, settings.keep_receipt_bytes)
        self.receipt_book = ReceiptBook(canister_id, settings, self.receipts)
        self.chats = Chats(self.database)
        self.answers = Answers(self.database)
        self.live_answers = LiveAnswers[tuple[int, object]]()
        self.uploads = UploadHasher(self.stable)
        self.caches = Caches(self.stable)
        self.herd = HerdSide(self.database, self.stable, self.caches)
        self.answer_caches = AnswerCaches(self.settings.answer_caches_per_caller)
        self.admission = Admission(canister_id, admission.of_calls(self.settings))
        self.streams = Admission(canister_id, admission.of_streams(self.settings))
        self.pacing = unpaced() if pacing is None else pacing
        self.texts = ChatTexts()
        # Streams keep to a few threads, so that the commits of chats find free ones.
        self.storing = asyncio.Semaphore(STORING_BLOCKS)
        self._file_threads = ThreadPoolExecutor(FILE_THREADS, f"files {name}")
        self.locks = NamedLocks()
        self.model = ServedModel(name, folder, self.stable, self.settings, self._forget_texts, decode_thread, trials)
        self.fault: CanisterError | None = None  # why it could not be opened
        self._made_at = time.monotonic()
        self.running_calls = RunningCalls()
        self._stopping = False
        self._halting = False  # `stop_canister` waits for the calls that run

    # -- life

    async def start(self, crash: str | None = None) -> None:
        """Open the store, finish or undo what a crash left half done, and begin to load the model again.

        crash: how the server before this one crashed, if it did. A canister that cannot be opened raises why. From then
        on it answers every call with that, until it is stopped.
        """
        try:
            await asyncio.to_thread(self._open, crash)
        except CanisterError as error:
            self.fault, self.model.load_error = error, str(error)
            await asyncio.to_thread(self._close)
            raise
        if self.state.model_args is not None:
            self.model.begin_loading(self.state.model_args)

    def _open(self, crash: str | None) -> None:
        self.database.open()
        self.model.crashes.open(crash)
        recovery = self.stable.recover()
        for damage in recovery.damaged:
            log.error("a file is damaged", canister=self.name, path=damage.path, n_bytes=damage.n_found)
        self.state = states.load(self.database, self.state)
        self.controllers.load()
        self.roles.load()
        self.ledger.load()
        self.answers.load()
        self.herd.marks.load()

    async def stop(self, drain_seconds: float) -> None:
        """Refuse new calls, give running ones some time, cancel the rest, and close."""
        self._stopping = True
        await self.live_answers.stopped()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.running_calls.over(), drain_seconds)
        self.running_calls.cancel()
        await self.running_calls.over()
        await self.ingress.finished()
        await self.model.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._file_threads.shutdown()
        self.stable.close()
        self.database.close()

    def running(self, call: RunningCall) -> Counted:
        """A context in which a call counts as running, for draining."""
        self.check_available()
        if self._stopping:
            raise CanisterStopping(f"Error from Canister {self.id}: Canister {self.id} is stopping; try again later")
        return self.running_calls.counted(call)

    @property
    def is_idle(self) -> bool:
        """True while no call runs or waits for its turn."""
        return self.n_calls == 0

    @property
    def n_calls(self) -> int:
        """Calls that run or wait for their turn."""
        return max(len(self.running_calls), self.admission.n_running + self.admission.n_waiting)

    def check_available(self) -> None:
        """Raise CanisterUnavailable if its files could not be opened."""
        if self.fault is not None:
            raise CanisterUnavailable(f"Canister {self.id} is not available: {self.fault}") from self.fault

    @property
    def is_started(self) -> bool:
        """Does it take calls?"""
        return not (self.state.is_stopped or self._halting or self._stopping)

    def check_started(self) -> None:
        """Raise CanisterStopped or CanisterStopping after `stop_canister`, or while the server is being stopped."""
        if self.state.is_stopped:
            raise CanisterStopped(f"Canister {self.id} is stopped")
        if self._halting or self._stopping:
            raise CanisterStopping(f"Canister {self.id} is stopping")

    async def others_done(self, call: RunningCall) -> None:
        """Let no other calls begin until this one has ended, and wait for those that run."""

        def over() -> None:
            self._halting = False

        self._halting = True
        call.work.on_commit(over)
        call.work.on_rollback(over)
        await self.running_calls.over(but=call)

    # -- what is known

    @property
    def status(self) -> str:
        """running, stopping or stopped."""
        if self.state.is_stopped:
            return "stopped"
        return "stopping" if self._stopping or self._halting else "running"

    @property
    def uptime_seconds(self) -> int:
        """Since this process began to serve it."""
        return int(time.monotonic() - self._made_at)

    @property
    def access_level(self) -> int:
        return self.state.access_level

    def summary(self) -> dict[str, object]:
        """What anybody may know."""
        engine = self.model.engine
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status,
            "ready": engine is not None,
            "model": engine.info.description if engine is not None else None,
            "title": self.model.title,
        }

    def observed(self) -> dict[str, float]:
        """The canister's metrics, by the names of telemetry.OBSERVED."""
        values: dict[str, float] = {
            "canister_ready": self.model.is_ready and self.model.load_error is None,
            "canister_calls_running": self.admission.n_running,
            "canister_calls_waiting": self.admission.n_waiting,
            "canister_streams_running": self.streams.n_running,
            "canister_cycle_balance": self.ledger.cycles,
            "canister_stable_bytes": self.stable.total_bytes(),
        }
        return values | self.model.observed()

    # -- committing

    def record(self, work: UnitOfWork) -> None:
        """Make changes of the State durable when its transaction commits."""
        states.record(work.tx, work.changes)

    def apply(self, work: UnitOfWork) -> None:
        """Make committed changes of the State visible."""
        self.state = states.changed(self.state, work.changes)

    async def commit(self, transaction: Transaction) -> None:
        """File bytes, fsync, one SQL transaction, renames. Raises what went wrong, and has then changed nothing."""
        started = time.perf_counter()
        future = None
        if transaction.is_small:
            quota.check(self.stable, transaction.growth(), self.settings, self.answers.n_bytes)
            future = transaction.commit_small()
        if future is None:
            await asyncio.to_thread(transaction.prepare)
            quota.check(self.stable, transaction.growth(), self.settings, self.answers.n_bytes)
            future = transaction.commit()
        await _committed(future)
        metrics.count_commit(self.name, time.perf_counter() - started)

    async def rollback(self, transaction: Transaction) -> None:
        """Remove what was prepared. Nothing happens after a commit."""
        await asyncio.to_thread(transaction.rollback)

    # -- files

    def _forget_texts(self) -> None:
        """Another model is loaded: forget prompt caches and texts in the tokens of the former one."""
        self.caches.clear()
        self.answer_caches.clear()
        self.texts.clear()

    clean = staticmethod(clean_path)
    clean_folder = staticmethod(clean_folder)

    def forget_when_committed(self, work: UnitOfWork, path: str) -> None:
        """The file at `path` changes otherwise than by a run: forget what is remembered of it."""
        clean = self.clean(path)

        def forget() -> None:
            self.caches.drop(clean)
            if self.model.engine is not None:
                self.model.engine.forget(clean)

        work.on_commit(forget)

    def in_file_thread(
        self, work: Callable[Params, T], *args: Params.args, **named: Params.kwargs
    ) -> asyncio.Future[T]:
        """Do something with a large file on a thread where it delays nobody."""
        return asyncio.get_running_loop().run_in_executor(self._file_threads, partial(work, *args, **named))


async def _committed(future: Future[None]) -> None:
    """Wait for a commit, and raise its error. As `asyncio.wrap_future`, in half of its time."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def end() -> None:
        if not done.done():
            done.set_result(None)

    def told(_: Future[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(end)

    future.add_done_callback(told)
    await done
    future.result()
