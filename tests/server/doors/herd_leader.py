"""The leader of a herd, as far as the private door of a worker needs one: signed requests, and a journal in memory."""

from __future__ import annotations

import itertools
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from canister.api import codec, herd_requests, herd_wire
from canister.api.herd_frames import FrameReader, Text
from canister.api.herd_requests import HerdKey
from canister.api.herd_wire import ChatAt, Conflict, Control, Done, Run, State
from canister.api.methods import BY_NAME
from canister.api.records import RunOutputRecord
from canister.client.http_library import async_transport, base_url
from canister.client.local_server import LocalServer
from canister.store.cache_paths import sessions_of
from canister.store.container import CacheFile
from canister.store.heads import NO_CHAT, gone_on, head_of, tokens_alone

SECRET = bytes(range(32))


@dataclass(frozen=True)
class Ran:
    """The answer to a job: its texts as they came, and its end."""

    texts: list[Text]
    done: Done

    def value(self, method: str) -> Any:
        """The record in the reply."""
        assert self.done.reply is not None, self.done
        return codec.decode_reply(BY_NAME[method], self.done.reply).value

    @property
    def run(self) -> RunOutputRecord:
        record = self.value("run_update")
        assert isinstance(record, RunOutputRecord)
        return record


class WorkerClient:
    """A worker, as its leader speaks to it."""

    def __init__(self, url: str, key: HerdKey) -> None:
        self.key = key
        self.http = httpx.AsyncClient(base_url=base_url(url), transport=async_transport(url), timeout=120)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.http.aclose()

    def headers(self, method: str, target: str, body: bytes, caller: str = "") -> dict[str, str]:
        signature = herd_requests.sign(self.key, method, target, body, now_ns=time.time_ns(), caller=caller)
        named = {herd_requests.CALLER_HEADER: caller} if caller else {}
        return {herd_requests.SIGNATURE_HEADER: signature, **named}

    async def send(self, method: str, target: str, body: bytes = b"", caller: str = "", **more: str) -> httpx.Response:
        headers = self.headers(method, target, body, caller) | more
        return await self.http.request(method, target, content=body, headers=headers)

    async def run(self, run: Run) -> Ran | Conflict:
        return _ran(await self.send("POST", herd_requests.RUN, herd_wire.encode(run)))

    async def control(self, control: Control) -> Ran | Conflict:
        return _ran(await self.send("POST", herd_requests.CONTROL, herd_wire.encode(control)))

    async def get(self, canister: str, caller: str, path: str, *, rows: bool = False) -> tuple[bytes, bytes] | None:
        """Container and head."""
        response = await self.send("GET", herd_requests.chat_target(canister, caller, path, rows=rows))
        if response.status_code == 404:
            return None
        assert response.status_code == 200, response.text
        return response.content, bytes.fromhex(response.headers[herd_requests.HEAD_HEADER])

    async def put(self, canister: str, caller: str, path: str, container: bytes) -> bytes:
        """The head that the chat has then."""
        response = await self.send("PUT", herd_requests.chat_target(canister, caller, path), container)
        assert response.status_code == 204, response.text
        return bytes.fromhex(response.headers[herd_requests.HEAD_HEADER])

    async def state(self) -> State:
        response = await self.send("GET", herd_requests.STATE)
        assert response.status_code == 200, response.text
        return herd_wire.decode(State, response.content)

    async def drain(self) -> None:
        assert (await self.send("POST", herd_requests.DRAIN)).status_code == 204


def _ran(response: httpx.Response) -> Ran | Conflict:
    if response.status_code == 409:
        return herd_wire.decode(Conflict, response.content)
    assert response.status_code == 200, response.text
    reader = FrameReader()
    frames = reader.feed(response.content)
    reader.close()
    *texts, done = frames
    assert isinstance(done, Done)
    assert all(isinstance(text, Text) for text in texts)
    return Ran([text for text in texts if isinstance(text, Text)], done)


@dataclass
class Leader:
    """A journal of one caller's chats, and the way of a call: brought to a worker, run, settled."""

    caller: str
    canister: str = "llama_cpp"
    epoch: int = 1
    rev: int = 0
    chats: dict[str, CacheFile] = field(default_factory=dict)
    n_moved: int = 0
    _count: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def path(self, name: str) -> str:
        return f"{sessions_of(self.caller)}/{name}"

    def head(self, name: str) -> bytes:
        chat = self.chats.get(self.path(name))
        return NO_CHAT if chat is None else head_of(chat)

    def job(self, method: str, arg: Any, *chats: str, **changed: Any) -> Run:
        """A job on these chats, by name."""
        row = BY_NAME[method]
        encoded = codec.encode_args(row, row.arg.model_validate(arg) if isinstance(arg, dict) else arg)
        named: dict[str, Any] = {
            "job": secrets.token_bytes(32),
            "epoch": self.epoch,
            "fence": self.epoch << 32 | next(self._count),
            "rev": self.rev,
            "canister": self.canister,
            "caller": self.caller,
            "method": method,
            "arg": encoded,
            "seed": 4711,
            "now_ns": time.time_ns(),
            "chats": tuple(ChatAt(self.path(name), self.head(name)) for name in chats),
        }
        return Run(**named | changed)

    def chat_job(self, name: str, prompt: str, *flags: str, method: str = "run_update", **changed: Any) -> Run:
        args = ["-p", prompt, "--prompt-cache", name, "--prompt-cache-all", *flags]
        return self.job(method, {"args": args}, name, **changed)

    async def call(self, worker: WorkerClient, job: Run) -> Ran:
        """Run a job where its chats are brought if they are not there; settle it."""
        ran = await worker.run(job)
        while isinstance(ran, Conflict):
            assert ran.why == "head", ran
            assert ran.path is not None
            await self.bring(worker, ran.path)
            ran = await worker.run(job)
        self.settle(ran.done)
        return ran

    async def bring(self, worker: WorkerClient, path: str, container: bytes | None = None) -> None:
        """Let the worker's copy be that of the journal. container: with KV rows, from elsewhere."""
        self.n_moved += 1
        chat = self.chats.get(path)
        told = b"" if chat is None else tokens_alone(chat)
        head = await worker.put(self.canister, self.caller, path, told if container is None else container)
        assert head == (NO_CHAT if chat is None else head_of(chat))

    def settle(self, done: Done) -> None:
        for change in done.chats:
            before = self.chats.get(change.path)
            assert change.head_before == (NO_CHAT if before is None else head_of(before))
            if change.head == NO_CHAT:
                del self.chats[change.path]
            else:
                after = gone_on(before, change.keep, CacheFile.parse(change.container))
                assert head_of(after) == change.head
                self.chats[change.path] = after

    async def control(self, worker: WorkerClient, method: str, arg: Any = None, *, rev: int | None = None) -> Ran:
        """The next entry of the log, or one again."""
        row = BY_NAME[method]
        encoded = codec.encode_args(row, row.arg.model_validate(arg) if isinstance(arg, dict) else arg)
        self.rev = self.rev + 1 if rev is None else self.rev
        entry = Control(rev or self.rev, self.epoch, self.canister, self.caller, method, encoded, time.time_ns())
        ran = await worker.control(entry)
        assert isinstance(ran, Ran), ran
        return ran


def worker_flags(folder: Path, worker: str = "w1", generation: int = 1) -> tuple[str, ...]:
    """Flags of `canister serve` for a worker of the herd."""
    secret = folder / "herd.secret"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text(SECRET.hex())
    return (
        *("--herd-worker", worker, "--herd-generation", str(generation), "--herd-secret-file", str(secret)),
        *("--slots", "2", "--threads", "1", "--instruction-limit", "none", "--log-level", "warning"),
    )


def worker_server(folder: Path, worker: str = "w1", *flags: str) -> LocalServer:
    """A worker as a process, on a socket file."""
    listen = ("--listen", f"unix:{folder}/{worker}.sock")
    return LocalServer(folder / worker, *worker_flags(folder, worker), *listen, *flags)


def client_of(server: LocalServer, worker: str = "w1", generation: int = 1) -> WorkerClient:
    return WorkerClient(server.url, HerdKey(worker, generation, SECRET))


def random_id() -> bytes:
    return os.urandom(32)
