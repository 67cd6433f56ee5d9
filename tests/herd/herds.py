"""Herds for tests: the door in this process or in one of its own, workers always as processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from canister import dispatch
from canister.api import codec, management
from canister.client import known_trials
from canister.client.local_server import LocalServer
from canister.config import Settings
from canister.herd import herd as herds
from canister.herd.dispatcher import HerdDispatcher
from canister.herd.door import HerdDoor
from canister.herd.herd import Herd
from canister.herd.journal import Journal
from canister.herd.launch.local import LocalLauncher
from canister.herd.proxy import Proxy
from canister.herd.settings import WORKERS, HerdSettings
from canister.herd.workers import Worker
from canister.runtime.host import Host
from canister.server.app import app_for
from canister.server.doors.openai import routes as openai
from tests.harness import CHAT_MODEL
from tests.traces import until

PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
LINES = "application/x-ndjson"
QUESTIONS = ("Who are you?", "What is a canister?", "How do you work?", "What can you do?")


@dataclass
class InProcess:
    """A herd whose door and leader are in this process."""

    herd: Herd
    host: Host
    http: httpx.AsyncClient

    @property
    def workers(self) -> list[Worker]:
        return list(self.herd.workers.all)

    async def ready(self, n: int) -> None:
        """Wait until so many workers can run calls."""
        id = self.host.default.id
        await until(lambda: sum(worker.may_run(id, 0) for worker in self.workers) >= n)

    async def post(self, method: str, arg: object = None, key: str | None = None, **headers: str) -> httpx.Response:
        if key is not None:
            headers["Idempotency-Key"] = key
        content = b"" if arg is None else json.dumps(arg)
        return await self.http.post(f"/canisters/llama_cpp/{method}", content=content, headers=headers)

    async def set_controllers(self, controllers: list[str]) -> None:
        """As the management canister's update_settings does."""
        row = management.find_method("update_settings")
        arg = {"canister_id": self.host.default.id, "settings": {"controllers": controllers}}
        target = HerdDispatcher(self.herd, dispatch.of_host(self.host)).default
        caller = self.host.identity.principal
        await target.execute(row, caller, lambda: codec.args_from_json(row, arg))

    async def call(self, method: str, arg: object = None, key: str | None = None) -> Any:
        response = await self.post(method, arg, key)
        assert response.status_code == 200, response.text
        return response.json()["Ok"]


async def take_lead(url: str) -> herds.Lead:
    """Lead the herd of a journal that nobody leads."""
    journal = await Journal.open(url)
    epoch = await journal.lead(herds.holder(), "http://test")
    assert epoch is not None
    return herds.Lead(journal, epoch)


@asynccontextmanager
async def herd_in(
    folder: Path, workers: int = 2, *, herd: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[InProcess]:
    """settings: of the door and its workers. herd: of HerdSettings. It is ready when it is given."""
    known_trials.borrow(folder)
    wanted = {"model": CHAT_MODEL, "threads": 1, "slots": 2, "log_level": "warning", **settings}
    given = Settings(data_dir=folder, **wanted)
    own = given.model_copy(update={"server": given.server.model_copy(update={"confine": False, "model": None})})
    async with AsyncExitStack() as held:
        held.callback(lend, folder)
        host = Host(own)
        await host.start()
        held.push_async_callback(host.stop, 5.0)
        launcher = LocalLauncher(host.data_dir / WORKERS)
        set_up = HerdSettings(workers=workers, **(herd or {}))
        lead = await take_lead(set_up.journal_url(host.data_dir))
        running = herds.running(host, given, set_up, launcher, lead, deposed=lambda: None)
        leading = await held.enter_async_context(running)
        behind = HerdDispatcher(leading, dispatch.of_host(host))
        proxied = Proxy(leading, openai.broken).routes(openai.routes())
        transport = httpx.ASGITransport(app=app_for(behind, routes=[*HerdDoor(leading).routes(), *proxied]))
        headers = {"Authorization": f"Bearer {host.key_path.read_text().strip()}"}
        http = httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers, timeout=300)
        await held.enter_async_context(http)
        made = InProcess(leading, host, http)
        await made.ready(workers)
        yield made


def lend(folder: Path) -> None:
    """What the workers have found out counts for those of other tests."""
    for worker in (folder / WORKERS).glob("*"):
        known_trials.lend(worker)


class HerdServer(LocalServer):
    def end(self, how: signal.Signals | None) -> int:
        try:
            return super().end(how)
        finally:
            lend(self.data_dir)


@asynccontextmanager
async def hung(worker: Worker) -> AsyncIterator[None]:
    """A worker that does nothing meanwhile; nobody starts it again, and the herd knows that it is silent."""
    os.kill(worker.ref.pid, signal.SIGSTOP)
    try:

        def is_silent() -> bool:
            worker.seen = 0.0  # its lease is over
            return worker.is_silent

        await until(is_silent)
        yield
    finally:
        os.kill(worker.ref.pid, signal.SIGCONT)


def herd_process(folder: Path, *flags: str, workers: int = 2) -> LocalServer:
    """`canister herd serve` as a process; it listens before its workers are ready."""
    usual = ("--workers", str(workers), "-m", str(CHAT_MODEL), "--threads", "1", "--slots", "2")
    return HerdServer(folder, *usual, "--log-level", "warning", *flags, command=("herd", "serve"))


def client_of(server: LocalServer, key: str | None = None) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key or server.api_key}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=300)


Call = Callable[[str, object], Any]


async def chat(call: Any, name: str, question: str, *, n: int = 14, flags: tuple[str, ...] = ()) -> list[Any]:
    """The records of a chat in bounded calls, at a temperature, with a seed."""
    base = ["--prompt-cache", f"{name}.cache", "--prompt-cache-all", "--temp", "0.9", "--seed", "7", *flags]
    found = [await call("new_chat", {"args": ["--prompt-cache", f"{name}.cache"]})]
    prompt = PROMPT.format(question)
    while True:
        found.append(await call("run_update", {"args": [*base, "-n", "1", "-p", prompt]}))
        if not found[-1]["prompt_remaining"]:
            break
    for _ in range(n):
        found.append(await call("run_update", {"args": [*base, "-p", ""]}))
        if found[-1]["generated_eog"]:
            break
    return found


async def wait_ready(http: httpx.AsyncClient, workers: int = 0) -> None:
    """Wait until a server or herd of its own process is ready, which a herd is with its first worker.

    workers: how many of a herd's have to be ready besides.
    """
    while True:
        try:
            if (await http.get("/readyz")).status_code == 200 and await _n_ready(http, workers) >= workers:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.05)


async def _n_ready(http: httpx.AsyncClient, workers: int) -> int:
    if not workers:
        return 0
    status = (await http.get("/herd/status")).json()
    return sum(worker["phase"] == "ready" for worker in status["workers"])
