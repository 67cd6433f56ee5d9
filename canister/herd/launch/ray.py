"""Workers on the machines of a Ray cluster, where Ray has room for what they need. Ray carries no calls and no tokens.

The launcher itself does not touch Ray: a child process does (`ray_driver.py`), which is started again when it ends.
Agents and workers go on meanwhile, and also while Ray's head is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from canister.errors import BadRequest, CanisterUnavailable, Conflict
from canister.herd.launch.launcher import WorkerEnded, WorkerEvent, WorkerRef, WorkerSpec, WorkerStarted
from canister.herd.launch.ray_lines import Order, Report, WorkerReport
from canister.telemetry.logs import get_logger

START_SECONDS = 180.0  # also for a machine that the cluster must add first
LEAVE_SECONDS = 60.0  # beyond the drain
CLOSE_SECONDS = 10.0
MAX_FAILED = 3  # starts of a new worker
MAX_LINE_BYTES = 1 << 24
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.2, 30.0
_DRIVER = "from canister.herd.launch.ray_driver import main; main()"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RayCluster:
    """Which cluster. address: of its head, HOST:PORT. namespace: of this herd's actors. token_file: of the cluster's
    token; None where RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is set. environment: what Ray is to see besides.
    """

    address: str
    namespace: str = "herd"
    token_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Kept:
    spec: WorkerSpec
    order: Order
    ref: WorkerRef | None = None  # of the process that is known to run
    phase: str = ""
    reason: str = ""
    n_failed: int = 0  # starts in a row
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class RayLauncher:
    """A `Launcher`. Used from one event loop."""

    def __init__(self, cluster: RayCluster) -> None:
        """BadRequest without a token: whoever reaches the ports of such a cluster runs what he likes on it."""
        self._environment = _environment(cluster)
        self._cluster = cluster
        self._kept: dict[str, _Kept] = {}
        self._events: asyncio.Queue[WorkerEvent | None] = asyncio.Queue()
        self._driver: asyncio.subprocess.Process | None = None
        self._driving: asyncio.Task[None] | None = None

    async def start(self, spec: WorkerSpec) -> WorkerRef:
        if spec.id in self._kept:
            raise Conflict(f"worker {spec.id} runs already; stop it first, or give the new one another id")
        kept = _Kept(spec, Order(spec.id, spec.secret.hex(), dict(spec.options), dict(spec.resources)))
        self._kept[spec.id] = kept
        if self._driving is None:
            self._driving = asyncio.create_task(self._drive(), name="ray driver")
        await self._tell()
        try:
            async with asyncio.timeout(START_SECONDS):
                while kept.ref is None and kept.n_failed < MAX_FAILED:
                    kept.changed.clear()
                    await kept.changed.wait()
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await self._give_up(kept)
            raise
        if kept.ref is not None:
            return kept.ref
        await self._give_up(kept)
        raise CanisterUnavailable(
            f"worker {spec.id} could not be started: {kept.reason or 'Ray does not answer'}; see its log, or "
            f"`ray status --address {self._cluster.address}`"
        )

    async def stop(self, ref: WorkerRef, drain_seconds: float) -> None:
        kept = self._kept.get(ref.id)
        if kept is None:
            return
        kept.order = replace(kept.order, leaves_in=drain_seconds)
        await self._tell()
        try:
            async with asyncio.timeout(drain_seconds + LEAVE_SECONDS):
                while kept.phase != "left":
                    kept.changed.clear()
                    await kept.changed.wait()
        except TimeoutError:
            log.error("a worker could not be ended; end it on its machine", worker=ref.id, url=ref.url, how=kept.reason)
        await self._forget(ref.id)
        if kept.ref is not None:
            self._events.put_nowait(WorkerEnded(kept.ref, "it was told to end", returns=False))

    async def events(self) -> AsyncIterator[WorkerEvent]:
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        refs = [kept.ref for kept in self._kept.values() if kept.ref is not None]
        await asyncio.gather(*(self.stop(ref, CLOSE_SECONDS) for ref in refs))
        await self.leave()

    async def leave(self) -> None:
        """End only what is ours: workers go on, and the next launcher of this cluster and namespace finds them."""
        if self._driving is not None:
            self._driving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._driving
            self._driving = None
        self._events.put_nowait(None)

    # -- the process that talks to Ray

    async def _drive(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                await self._one_driver()
            except OSError as error:
                log.error("Ray's driver could not be started", how=str(error))
            if asyncio.get_running_loop().time() - begun > 60:
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    async def _one_driver(self) -> None:
        driver = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _DRIVER, self._cluster.address, self._cluster.namespace),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            limit=MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C at the terminal reaches the herd alone
        )
        self._driver = driver
        assert driver.stdout is not None
        try:
            await self._tell()
            while line := await driver.stdout.readline():
                self._note(Report.from_json(json.loads(line)))
            code = await driver.wait()
            log.warning("Ray's driver ended, and is started again; workers go on", code=code)
        except ValueError as error:
            log.error("Ray's driver said what nobody understands", how=str(error))
        finally:
            self._driver = None
            if driver.returncode is None:
                driver.kill()
                await asyncio.shield(driver.wait())

    async def _tell(self) -> None:
        """All that is wanted, in one line."""
        driver = self._driver
        if driver is None or driver.stdin is None:
            return  # it is told when it has started
        orders = [kept.order.to_json() for kept in self._kept.values()]
        with contextlib.suppress(ConnectionError):  # the next one is told
            driver.stdin.write(json.dumps(orders, default=list).encode() + b"\n")
            await driver.stdin.drain()

    async def _give_up(self, kept: _Kept) -> None:
        """End what there is of a worker that has not started; nobody waits for that."""
        kept.order = replace(kept.order, leaves_in=0.0)
        await self._tell()

    async def _forget(self, worker: str) -> None:
        self._kept.pop(worker, None)
        await self._tell()

    def _note(self, report: Report) -> None:
        if report.error:
            log.warning("Ray cannot be used at the moment; workers go on", how=report.error)
        for found in report.workers:
            kept = self._kept.get(found.worker)
            if kept is not None:
                self._note_worker(kept, found)

    def _note_worker(self, kept: _Kept, found: WorkerReport) -> None:
        if found.reason and found.reason != kept.reason:
            log.info("about a worker", worker=found.worker, phase=found.phase, how=found.reason)
        kept.n_failed = (
            kept.n_failed + 1 if found.phase == "failed" else 0 if found.phase == "running" else kept.n_failed
        )
        kept.phase, kept.reason = found.phase, found.reason
        if found.phase == "left" and kept.ref is None:
            self._kept.pop(found.worker, None)  # it was given up
        before = kept.ref
        if found.phase == "running" and (before is None or before.generation < found.generation):
            if before is not None:
                self._events.put_nowait(WorkerEnded(before, found.reason or "its process ended", returns=True))
            kept.ref = WorkerRef(found.worker, found.generation, found.url, found.pid)
            kept.order = replace(kept.order, floor=found.generation + 1)
            self._events.put_nowait(WorkerStarted(kept.ref))
        kept.changed.set()


def _environment(cluster: RayCluster) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("CANISTER_")}
    found |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # a head that is away does not end the driver at once
        **cluster.environment,
    }
    if cluster.token_file is not None:
        found["RAY_AUTH_TOKEN_PATH"] = str(cluster.token_file.expanduser().absolute())
    if (
        not (found.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"})
        and not Path("~/.ray/auth_token").expanduser().exists()
    ):
        raise BadRequest(
            "a Ray cluster without a token lets everybody who reaches it run programs on all its machines: make one "
            "with `ray get-auth-token --generate`, and start Ray on every machine with RAY_AUTH_MODE=token"
        )
    return found
