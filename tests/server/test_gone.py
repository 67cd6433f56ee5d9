"""Clients that go away: a real server, and clients that are nothing but a socket."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from canister import dispatch
from canister.api.records import InputRecord
from canister.config import Settings
from canister.dispatch import messages
from canister.engine.engine import EngineStats
from canister.ic import envelope
from canister.runtime.file_streams import STREAM_BLOCK_BYTES
from canister.runtime.host import Host
from canister.server.app import create_app, running
from canister.server.http.listener import Server
from canister.server.sockets import bind
from tests.harness import CHAT_MODEL, Harness
from tests.server.ic_door import Door
from tests.traces import SECONDS, trace, until

pytestmark = pytest.mark.anyio

ENDLESS = ["-p", "hello", "-n", "-1", "--temp", "0.0", "--ignore-eos", "--context-shift"]
SHORT = ["-p", "hello", "-n", "5", "--temp", "0.0"]
CHAT = ["--prompt-cache", "chat", "--prompt-cache-all"]


@dataclass
class Served:
    host: Host
    server: Server
    port: int
    clients: list[Client] = field(default_factory=list)

    @property
    def stats(self) -> EngineStats:
        assert self.host.default.model.engine is not None
        return self.host.default.model.engine.stats()

    @property
    def is_idle(self) -> bool:
        return not self.server.server_state.tasks and self.stats.n_running == self.stats.n_waiting == 0

    async def connect(self) -> Client:
        streams = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(Client(*streams, self.host.key_path.read_text().strip()))
        return self.clients[-1]


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    key: str

    def send(self, path: str, body: bytes, verb: str = "POST", n_bytes: int | None = None) -> None:
        """A request, or the beginning of one that is to have n_bytes."""
        head = (
            f"{verb} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Length: {len(body) if n_bytes is None else n_bytes}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)

    def call(self, method: str, *args: list[str]) -> None:
        self.send(f"/canisters/llama_cpp/{method}", json.dumps({"args": list(chain(*args))}).encode())

    async def answer(self) -> tuple[int, Any]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
        return int(head.split()[1]), json.loads(await self.reader.readexactly(int(fields["content-length"])))

    def leave(self, how: str) -> None:
        """close: as a program that ends. abort: as one that is killed, or a network that breaks."""
        if how == "abort":
            self.writer.transport.abort()
        else:
            self.writer.close()


@asynccontextmanager
async def serving(data_dir: Path, **settings: Any) -> AsyncIterator[Served]:
    limits = {"instruction_limit": None, "query_instruction_limit": None}
    async with running(Host(Settings(data_dir=data_dir, slots=1, **limits, **settings))) as host:
        harness, caller = Harness(host.default), host.identity.principal
        blocks = [CHAT_MODEL.read_bytes()]

        async def model() -> AsyncIterator[bytes]:
            for block in blocks:
                yield block

        reply = await dispatch.store_stream(host.default, caller, "model.gguf", 0, model())
        assert reply.error is None
        await harness.call("load_model", {"args": ["--model", "model.gguf", "--ctx-size", "512"]}, caller)
        with bind("127.0.0.1", 0) as listener:
            server = Server(create_app(host), host)
            task = asyncio.create_task(server.serve([listener]))
            served = Served(host, server, listener.getsockname()[1])
            try:
                yield served
            finally:
                for client in served.clients:
                    client.leave("abort")
                server.should_exit = True
                await task


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "data") as started:
        yield started


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("method", ["run_update", "run_query"])
async def test_a_running_call_is_cancelled(served: Served, method: str, how: str) -> None:
    first, second = await served.connect(), await served.connect()
    second.call("run_update", SHORT, CHAT)
    assert (await second.answer())[0] == 200
    before = trace(served.host.default)
    first.call(method, ENDLESS, CHAT)
    await until(lambda: served.stats.n_running == 1)
    first.leave(how)
    await until(lambda: served.is_idle)
    assert served.stats.n_cancelled == 1
    assert trace(served.host.default) == before
    # The slot is free, and the chat goes on where it was.
    second.call("run_update", SHORT, CHAT)
    status, content = await second.answer()
    assert status == 200
    assert content["Ok"]["n_prompt_tokens_cached"] > 0


async def test_waiting_calls_are_cancelled(served: Served) -> None:
    """For a slot, and for a chat that is in use; the one that runs is not disturbed."""
    clients = [await served.connect() for _ in range(4)]
    clients[0].call("run_update", ENDLESS, CHAT)
    await until(lambda: served.stats.n_running == 1)
    before = trace(served.host.default)
    for client, more in zip(clients[1:], ([], ["--prompt-cache", "other"], CHAT), strict=True):
        client.call("run_update", SHORT, more)
    await until(lambda: served.stats.n_waiting == 2 and len(served.server.server_state.tasks) == 4)
    for client in clients[1:]:
        client.leave("abort")
    await until(lambda: len(served.server.server_state.tasks) == 1)
    assert (served.stats.n_running, served.stats.n_waiting, served.stats.n_cancelled) == (1, 0, 2)
    assert trace(served.host.default) == before
    clients[0].leave("abort")
    await until(lambda: served.is_idle)


async def test_a_connection_serves_many_calls(served: Served) -> None:
    """Watching for the end of a client neither ends its connection nor eats its next request."""
    client = await served.connect()
    for _ in range(3):
        client.call("run_update", SHORT, CHAT)
        assert (await client.answer())[0] == 200
    for args in (SHORT, SHORT, ["--no-such-flag"]):  # one behind the other, without waiting
        client.call("run_query", args)
    assert [(await client.answer())[0] for _ in range(3)] == [200, 200, 400]
    client.leave("close")
    await until(lambda: served.is_idle)
    assert served.stats.n_cancelled == 0


async def test_a_client_that_does_not_read_does_not_hold_the_engine(served: Served) -> None:
    lazy = await served.connect()
    lazy.reader._transport.pause_reading()  # type: ignore[attr-defined]
    lazy.call("run_update", SHORT, CHAT)
    await until(lambda: served.is_idle and served.stats.n_row_steps > 0)
    other = await served.connect()
    other.call("run_query", SHORT)
    assert (await other.answer())[0] == 200


async def test_an_accepted_message_goes_on_and_a_query_is_cancelled(served: Served) -> None:
    canister = served.host.default
    door = Door(served.host, None, canister)  # type: ignore[arg-type]  # only its messages are wanted
    update, id = envelope.seal(
        door.message("call", "run_update", InputRecord(args=[*ENDLESS, *CHAT, "-n", "300"])), served.host.identity
    )
    query, _ = envelope.seal(door.message("query", "run_query", InputRecord(args=ENDLESS)), served.host.identity)
    client = await served.connect()
    client.send(f"/api/v3/canister/{canister.id}/call", update)
    await until(lambda: messages.find_message(canister, id) is not None)
    client.leave("abort")
    await canister.ingress.finished()
    known = messages.find_message(canister, id)
    assert known is not None
    assert known.status == "replied"
    assert served.stats.n_cancelled == 0

    client = await served.connect()
    client.send(f"/api/v3/canister/{canister.id}/query", query)
    await until(lambda: served.stats.n_running == 1)
    client.leave("abort")
    await until(lambda: served.is_idle)
    assert served.stats.n_cancelled == 1


async def test_a_call_that_takes_too_long_is_rejected(tmp_path: Path) -> None:
    async with serving(tmp_path, canisters={"llama_cpp": {"call_timeout": 300}}) as served:
        canister = served.host.default
        canister.settings = canister.settings.model_copy(update={"call_timeout": 0.1})
        before = trace(canister)
        client = await served.connect()
        client.call("run_update", ENDLESS, CHAT)
        status, content = await client.answer()
        assert status == 504
        assert (content["reject_code"], content["error_code"]) == (2, "IC0202")
        assert "--call-timeout" in content["reject_message"]
        assert trace(canister) == before
        door = Door(served.host, None, canister)  # type: ignore[arg-type]
        body, id = envelope.seal(
            door.message("call", "run_update", InputRecord(args=[*ENDLESS, *CHAT])), served.host.identity
        )
        client.send(f"/api/v2/canister/{canister.id}/call", body)
        await until(lambda: (found := messages.find_message(canister, id)) is not None and found.answer is not None)
        known = messages.find_message(canister, id)
        assert known is not None
        assert known.answer is not None
        assert (known.status, known.answer.reject_code, known.answer.error_code) == ("rejected", 2, "IC0202")


# -- files


def open_files(host: Host) -> list[str]:
    """Files of stable memory that this process has open."""
    folder = str(host.default.folder / "stable")
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if path.startswith(folder) and Path(path).is_file():
            found.append(path)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="open files are looked up in /proc")
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_an_upload_that_breaks_off_leaves_whole_blocks(served: Served, how: str) -> None:
    data = os.urandom(STREAM_BLOCK_BYTES * 2 + 12_345)
    client = await served.connect()
    client.send("/canisters/llama_cpp/files/big", data, verb="PUT", n_bytes=10 * len(data))
    stable = served.host.default.stable
    await until(lambda: (known := stable.stat("big")) is not None and known.size >= STREAM_BLOCK_BYTES)
    client.leave(how)
    await until(lambda: served.is_idle)
    known = stable.stat("big")
    assert known is not None
    assert STREAM_BLOCK_BYTES <= known.size < len(data)
    assert (served.host.default.folder / "stable" / "big").read_bytes() == data[: known.size]
    assert open_files(served.host) == []
    # It goes on from there.
    rest = data[known.size :]
    client = await served.connect()
    client.send(f"/canisters/llama_cpp/files/big?offset={known.size}", rest, verb="PUT")
    status, content = await client.answer()
    assert (status, content["Ok"]["filesize"]) == (200, len(data))


@pytest.mark.skipif(sys.platform != "linux", reason="open files are looked up in /proc")
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_download_that_breaks_off_leaves_no_open_file(served: Served, how: str) -> None:
    client = await served.connect()
    data = os.urandom(1 << 20) * 40
    client.send("/canisters/llama_cpp/files/big", data, verb="PUT")
    assert (await client.answer())[0] == 200
    await asyncio.to_thread(served.host.default.stable.sync)  # nobody else opens it from here on
    client.send("/canisters/llama_cpp/files/big", b"", verb="GET")
    await client.reader.readuntil(b"\r\n\r\n")
    await until(lambda: bool(open_files(served.host)))
    client.leave(how)
    await until(lambda: served.is_idle and not open_files(served.host))  # a thread that reads closes the file


@pytest.mark.skipif(sys.platform != "linux", reason="open files are looked up in /proc")
async def test_a_file_is_closed_after_the_read_that_a_gone_client_left_behind(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread's read cannot be stopped, and until it is over the number of its file must not become another's."""
    client = await served.connect()
    client.send("/canisters/llama_cpp/files/big", os.urandom(1000), verb="PUT")
    assert (await client.answer())[0] == 200
    await asyncio.to_thread(served.host.default.stable.sync)  # nobody else opens it from here on
    begun, may_read, read = threading.Event(), threading.Event(), os.pread

    def slow(fd: int, n_bytes: int, offset: int) -> bytes:
        begun.set()
        assert may_read.wait(SECONDS)
        return read(fd, n_bytes, offset)

    monkeypatch.setattr(os, "pread", slow)
    client.send("/canisters/llama_cpp/files/big", b"", verb="GET")
    await until(begun.is_set)
    client.leave("abort")
    await until(lambda: served.is_idle)
    assert len(open_files(served.host)) == 1
    may_read.set()
    await until(lambda: not open_files(served.host))
