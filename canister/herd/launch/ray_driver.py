"""The process that talks to Ray for a herd: one named, detached actor a worker, each an `Agent` on some machine.

A process of its own, since Ray ends a driver that has lost its head for long, and begins dozens of threads: neither is
to happen to the herd's door. It keeps nothing. Lines of JSON come in: all that is wanted. Lines go out: all that is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import ray
from ray.exceptions import RayError

from canister.herd.launch.agent import Agent, AgentStatus
from canister.herd.launch.launcher import WorkerSpec
from canister.herd.launch.ray_lines import Order, Report, WorkerReport

_Handle: TypeAlias = Any  # of an actor: what Ray declares of it does not go with the awaiting of its methods

LOOK_SECONDS = 0.5
ASK_SECONDS = 5.0  # an agent that does not answer so long may be waiting for a machine
END_SECONDS = 60.0  # beyond the drain
FOLDER_VARIABLE = "CANISTER_HERD_DIR"
MAX_LINE_BYTES = 1 << 24
_FOLDER = "~/.local/share/llama-canister/herd"


class RayAgent(Agent):
    """The agent as an actor: its folder is the machine's own, by the environment in which Ray was started there."""

    def __init__(self) -> None:
        folder = Path(os.environ.get(FOLDER_VARIABLE) or _FOLDER)
        super().__init__(folder, str(ray.util.get_node_ip_address()))  # type: ignore[no-untyped-call,unused-ignore]


class Driver:
    """Makes what is be what is wanted, a task a worker."""

    def __init__(self, namespace: str, told: TextIO) -> None:
        self._namespace = namespace
        self._told = told
        self._orders: dict[str, Order] = {}
        self._reports: dict[str, WorkerReport] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until the input ends."""
        telling = asyncio.create_task(self._tell())
        try:
            async for line in _lines():
                self._take({order.worker: order for order in map(Order.from_json, json.loads(line))})
        finally:
            for task in (telling, *self._tasks.values()):
                task.cancel()

    def _take(self, orders: Mapping[str, Order]) -> None:
        for worker in self._orders.keys() - orders.keys():
            if (task := self._tasks.pop(worker, None)) is not None:
                task.cancel()
            self._reports.pop(worker, None)
        self._orders = dict(orders)
        for worker in orders:
            if worker not in self._tasks:
                self._tasks[worker] = asyncio.create_task(self._see_to(worker))

    async def _tell(self) -> None:
        while True:
            self._changed.clear()
            report = Report(tuple(self._reports.values()))
            self._told.write(json.dumps(report.to_json()) + "\n")
            self._told.flush()
            await self._changed.wait()

    async def _see_to(self, worker: str) -> None:
        agent: _Handle | None = None
        while True:
            order = self._orders[worker]
            try:
                agent = agent or self._agent(order)
                if order.leaves_in is not None:
                    await self._end(agent, order.leaves_in)
                    self._note(WorkerReport(worker, "left"))
                    return
                self._note(_report_of(worker, await self._look(agent, order)))
            except TimeoutError:
                self._note(self._lost(worker, f"no machine of the cluster has room for it: {dict(order.resources)}"))
            except (RayError, ValueError, OSError) as error:
                agent = None  # it may be another one the next time
                self._note(self._lost(worker, f"{type(error).__name__}: {first_line(error)}"))
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, agent: _Handle, order: Order) -> AgentStatus:
        async with asyncio.timeout(ASK_SECONDS):
            wanted = WorkerSpec(order.worker, bytes.fromhex(order.secret), order.options)
            # Said each time: an agent that was started anew knows nothing, and one that knows does nothing.
            status: AgentStatus = await agent.begin.remote(wanted, order.floor)
            return status

    async def _end(self, agent: _Handle, drain_seconds: float) -> None:
        async with asyncio.timeout(drain_seconds + END_SECONDS):
            await agent.end.remote(drain_seconds)
        ray.kill(agent, no_restart=True)

    def _agent(self, order: Order) -> _Handle:
        needs = dict(order.resources)
        remote: _Handle = ray.remote(RayAgent)
        return remote.options(
            name=f"worker-{order.worker}",
            namespace=self._namespace,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,  # a method that is lost is not run a second time on an agent that knows nothing
            num_cpus=needs.pop("CPU", 1.0),
            num_gpus=needs.pop("GPU", 0.0),
            memory=needs.pop("memory", None),
            resources=needs,
            scheduling_strategy="SPREAD",
        ).remote()

    def _lost(self, worker: str, reason: str) -> WorkerReport:
        """Its agent does not answer; the worker itself may well go on."""
        known = self._reports.get(worker, WorkerReport(worker, "waiting"))
        return dataclasses.replace(known, phase="waiting", reason=reason)

    def _note(self, report: WorkerReport) -> None:
        if self._reports.get(report.worker) != report:
            self._reports[report.worker] = report
            self._changed.set()


def first_line(error: BaseException) -> str:
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), "")


def _report_of(worker: str, status: AgentStatus) -> WorkerReport:
    return WorkerReport(worker, status.phase, status.generation, status.url, status.pid, status.address, status.reason)


async def _lines() -> AsyncIterator[bytes]:
    """The lines of the standard input, until it ends."""
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line


def main() -> None:
    """ADDRESS NAMESPACE as arguments. It ends when its input does, or when Ray cannot be reached."""
    address, namespace = sys.argv[1:3]
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints is no report
    try:
        ray.init(address=address, namespace=namespace, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        told.write(json.dumps(Report(error=f"{type(error).__name__}: {first_line(error)}").to_json()) + "\n")
        told.flush()
        os._exit(1)
    asyncio.run(Driver(namespace, told).run())
    ray.shutdown()  # the actors are detached, and stay
