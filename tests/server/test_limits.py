"""Limits at the door, with real connections: who is over one is told, who is not does not notice."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from canister.api import codec
from canister.api.methods import BY_NAME
from canister.api.records import CallLogInput
from canister.ic import envelope
from tests.runtime.held import held
from tests.server.ic_door import SOMEBODY, Door
from tests.server.served import CHAT, Served, served
from tests.traces import SECONDS, until

pytestmark = pytest.mark.anyio

QUESTION = CHAT.format("Please tell me a story.")
FLAGS = ["--samplers", "temperature", "--temp", "0.8", "--seed", "7", "-sp"]


async def chat(client: httpx.AsyncClient, cache: str, n_calls: int) -> list[httpx.Response]:
    """A chat of some calls; those that are refused are not repeated."""
    responses = []
    for n in range(n_calls):
        args = ["--prompt-cache", cache, "--prompt-cache-all", *FLAGS, "-p", "" if n else QUESTION]
        responses.append(await client.post("/run_update", json={"args": args}))
    return responses


def text(responses: list[httpx.Response]) -> str:
    return str(responses[-1].json()["Ok"]["conversation"])


async def logged(server: Served, method: str) -> int:
    """How many calls of a method were run, as the log of calls has it."""
    async with server.client() as controller:
        entries = (await controller.post("/get_call_log", json=CallLogInput(max_entries=1000).model_dump())).json()
    return sum(entry["method"] == method for entry in entries["Ok"])


async def test_a_flood_is_refused_and_nobody_else_notices(tmp_path: Path) -> None:
    limits = {"max_calls": 3, "max_calls_per_caller": 2, "max_queue_per_caller": 4, "max_queue": 20}
    async with served(tmp_path, with_model=True, slots=2, **limits) as server:
        async with server.client("alone") as alone:
            expected = text(await chat(alone, "a", 6))
            n_before = await logged(server, "run_update")
        n_refused = await refused_callers(server)  # the counters are the process's, other tests count too
        async with server.client("flood") as flood, server.client("other") as other, server.client("third") as third:
            floods = asyncio.gather(*(chat(flood, f"chat-{n}", 1) for n in range(60)))
            own, others = await asyncio.gather(chat(other, "a", 6), chat(third, "a", 6))
            flooded = [responses[0] for responses in await floods]
            assert text(own) == text(others) == expected
            assert {response.status_code for response in own + others} == {200}

            statuses = Counter(response.status_code for response in flooded)
            assert set(statuses) == {200, 429}
            for response in flooded:
                if response.status_code == 200:
                    assert expected.startswith(response.json()["Ok"]["conversation"])
                    continue
                assert int(response.headers["retry-after"]) > 0
                assert "x-ic-cycles" not in response.headers
                assert response.json()["error_code"] == "IC0201"
                assert response.json()["reject_code"] == 2
                assert "max_queue_per_caller = 4" in response.json()["reject_message"]
            # What was refused left no trace and cost nothing.
            assert await logged(server, "run_update") == n_before + 12 + statuses[200]
            made = await server_caches(server, "flood")
            assert made == statuses[200]
            assert await refused_callers(server) == n_refused + statuses[429]
        calls = server.host.default.admission
        assert (calls.n_running, calls.n_waiting) == (0, 0)


async def refused_callers(server: Served) -> float:
    """How many calls were refused because of a limit of their caller."""
    async with server.client() as controller:
        text = (await controller.get("/metrics")).text
    found = re.search(r'^canister_refused_total{canister="llama_cpp",scope="caller"} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def server_caches(server: Served, name: str) -> int:
    """How many prompt caches the caller with the API key of this name has."""
    key = server.host.keys.get(name)
    assert key is not None
    found = server.host.default.stable.walk(f".canister_cache/{key.principal}/sessions") or []
    return sum(not entry.path.endswith(".icppfmt") for entry in found)


async def test_the_queue_of_all_callers(tmp_path: Path) -> None:
    limits = {"max_calls": 1, "max_calls_per_caller": 1, "max_queue_per_caller": 1, "max_queue": 2}
    async with served(tmp_path, with_model=True, slots=1, **limits) as server:
        clients = [server.client(f"caller-{n}") for n in range(12)]
        responses = [
            one for many in await asyncio.gather(*(chat(client, "a", 1) for client in clients)) for one in many
        ]
        statuses = Counter(response.status_code for response in responses)
        assert set(statuses) == {200, 503}
        assert statuses[200] >= 3
        refused = next(response for response in responses if response.status_code == 503)
        assert int(refused.headers["retry-after"]) > 0
        assert "max_queue = 2" in refused.json()["reject_message"]
        for client in clients:
            await client.aclose()


async def test_the_ic_door_rejects_as_the_ic_does(tmp_path: Path) -> None:
    limits = {"max_calls": 1, "max_calls_per_caller": 1, "max_queue_per_caller": 1, "max_queue": 1}
    async with served(tmp_path, with_model=True, slots=1, **limits) as server, server.client() as http:
        door = Door(server.host, http, server.host.default)
        arg = codec.encode_args(
            BY_NAME["run_update"],
            BY_NAME["run_update"].arg.model_validate({"args": [*FLAGS, "-p", QUESTION]}),  # type: ignore[union-attr]
        )

        def content(n: int) -> dict[str, object]:
            return door.message("call", "", arg=arg, method_name="run_update", nonce=bytes([n]))

        contents = [content(n) for n in range(12)]
        documents = await asyncio.gather(*(door.send("call", one, SOMEBODY) for one in contents))
        statuses = Counter(document["status"] for document in documents)
        assert set(statuses) == {"replied", "non_replicated_rejection"}
        refused = [
            (one, document)
            for one, document in zip(contents, documents, strict=True)
            if document["status"] != "replied"
        ]
        one, document = refused[0]
        assert (document["reject_code"], document["error_code"]) == (2, "IC0201")
        # Nothing is known of a message that was refused, so that it can be sent again, and is run then.
        id = envelope.seal(one, SOMEBODY)[1]
        assert server.host.default.ingress.find(id) is None
        assert (await door.send("call", one, SOMEBODY))["status"] == "replied"


async def test_bodies_that_are_held(tmp_path: Path) -> None:
    async with served(tmp_path, max_held_bytes=100_000) as server, server.client() as client:
        arg = {"filename": "a", "chunk": "AAAA" * 30_000, "chunksize": 90_000, "offset": 0}
        response = await client.post("/file_upload_chunk", json=arg)
        assert response.status_code == 503
        assert "max_held_bytes = 100000" in response.json()["reject_message"]
        assert int(response.headers["retry-after"]) > 0
        # What was held is let go, and streams are not held.
        for _ in range(3):
            response = await client.post("/file_upload_chunk", json={**arg, "chunk": "AA==", "chunksize": 1})
            assert response.status_code == 200
            response = await client.put("/canisters/llama_cpp/files/b", content=bytes(300_000))
            assert response.json()["Ok"]["filesize"] == 300_000


async def test_chats_that_are_put_are_held_as_other_bodies_are(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True, max_held_bytes=100_000) as server, server.client() as client:
        path = "/canisters/llama_cpp/chats/long"
        for _ in range(2):
            large = {"messages": [{"role": "user", "content": "x" * 100_000}]}
            response = await client.put(path, json=large)
            assert response.status_code == 503
            assert "max_held_bytes = 100000" in response.json()["reject_message"]
            small = {"messages": [{"role": "user", "content": "x" * 60_000}]}
            assert (await client.put(path, json=small)).status_code == 200


async def test_streams(tmp_path: Path) -> None:
    async with served(tmp_path, max_streams=3, max_streams_per_caller=2) as server, server.client() as client:
        may_end = asyncio.Event()

        async def body() -> object:
            yield b"begin"
            await may_end.wait()
            yield b"end"

        url = "/canisters/llama_cpp/files/"
        running = [asyncio.create_task(client.put(f"{url}{n}", content=body())) for n in range(2)]
        await until(lambda: server.host.default.streams.n_running == 2)
        response = await client.put(f"{url}more", content=b"x")
        assert response.status_code == 429
        assert "max_streams_per_caller = 2" in response.json()["reject_message"]
        assert (await client.get(f"{url}0")).status_code == 429
        # Who may not upload is told that, and takes nobody's place.
        async with server.client("stranger") as stranger:
            assert (await stranger.put(f"{url}more", content=b"x")).status_code == 401
        may_end.set()
        assert [(await task).json()["Ok"]["filesize"] for task in running] == [8, 8]
        assert (await client.get(f"{url}0")).content == b"beginend"
        assert (await client.head(f"{url}0")).status_code == 200
        assert (await client.get(f"{url}0", headers={"Range": "bytes=900-"})).status_code == 416
        assert server.host.default.streams.n_running == 0


# -- slow clients


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What the server still sends before it ends the connection."""
    try:
        return await asyncio.wait_for(reader.read(), SECONDS)
    except ConnectionResetError:
        return b""


@asynccontextmanager
async def connected(server: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*server.address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_a_head_that_does_not_come(tmp_path: Path) -> None:
    async with (
        served(tmp_path, header_seconds=0.4) as server,
        connected(server) as (silent, _),
        connected(server) as (reader, writer),
    ):

        async def trickle() -> None:
            for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 10_000:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert await ended(silent) == b""
        assert await ended(reader) == b""
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
        async with server.client() as client:
            assert (await client.get("/healthz")).status_code == 200


async def test_a_head_without_end(tmp_path: Path) -> None:
    async with served(tmp_path) as server, connected(server) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        for n in range(40):
            writer.write(b"X-Field-%d: %b\r\n" % (n, b"y" * 10_000))
        assert b"200" not in await ended(reader)


async def test_a_body_that_nobody_wants(tmp_path: Path) -> None:
    """It may be sent to its end, so that the answer is not lost; who trickles it is disconnected all the same."""
    head = b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n"
    async with served(tmp_path / "patient", max_body_bytes=1024) as server, connected(server) as (reader, writer):
        writer.write(head)
        assert b"200 OK" in await reader.readuntil(b"\r\n")
        writer.write(bytes(899_000))
        await writer.drain()
        writer.write(bytes(1000) + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP/1.1 200 OK" in await reader.readuntil(b'"status": "ok"}')
    async with (
        served(tmp_path / "strict", header_seconds=0.4, max_body_bytes=1024) as server,
        connected(server) as (reader, writer),
    ):
        writer.write(head)

        async def trickle() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        await ended(reader)
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)


async def test_a_body_that_stalls(tmp_path: Path) -> None:
    async with served(tmp_path, stall_seconds=0.4) as server:
        key = server.host.key_path.read_text().strip().encode()
        for path in (b"PUT /canisters/llama_cpp/files/a", b"POST /canisters/llama_cpp/file_upload_chunk"):
            head = b"%b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n" % (path, key)
            async with connected(server) as (reader, writer):
                writer.write(head + b"Content-Length: 1000000\r\n\r\nsome of it")
                assert b"200 OK" not in await ended(reader)
        async with server.client() as client:
            assert (await client.get("/healthz")).status_code == 200
        await until(lambda: server.host.default.streams.n_running == 0)


async def test_an_answer_that_is_not_taken(tmp_path: Path) -> None:
    async with served(tmp_path, stall_seconds=0.4) as server, server.client() as client:
        url = "/canisters/llama_cpp/files/large"
        assert (await client.put(url, content=bytes(30_000_000))).status_code == 200
        key = server.host.key_path.read_text().strip().encode()
        async with connected(server) as (_, writer):
            writer.write(
                b"GET %b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n" % (url.encode(), key)
            )
            await until(lambda: server.host.default.streams.n_running == 1)
            await until(lambda: server.host.default.streams.n_running == 0)  # it was disconnected
            assert len((await client.get(url)).content) == 30_000_000


async def test_who_waits_for_our_work_is_not_slow(tmp_path: Path) -> None:
    async with served(tmp_path, header_seconds=0.5, stall_seconds=0.5) as server, server.client() as client:
        release = asyncio.Event()
        async with held(server.host.default.locks.acquire("slow")):
            arg = {"filename": "slow", "chunk": "AAA=", "chunksize": 2, "offset": 0}
            waiting = asyncio.create_task(client.post("/file_upload_chunk", json=arg))
            asyncio.get_running_loop().call_later(2.0, release.set)
            await release.wait()
            assert not waiting.done()
        assert (await waiting).status_code == 200


# -- connections


async def test_an_idle_connection_makes_room(tmp_path: Path) -> None:
    async with (
        served(tmp_path, max_connections=3) as server,
        connected(server) as (oldest, _),
        connected(server),
        connected(server),
        server.client() as client,
    ):
        assert (await client.get("/healthz")).status_code == 200
        assert await ended(oldest) == b""


async def test_when_all_connections_work(tmp_path: Path) -> None:
    async with served(tmp_path, max_connections=2) as server, server.client() as client:
        async with held(server.host.default.locks.acquire("slow")):
            arg = {"filename": "slow", "chunk": "AAA=", "chunksize": 2, "offset": 0}
            working = [asyncio.create_task(client.post("/file_upload_chunk", json=arg)) for _ in range(2)]
            await until(lambda: server.host.default.admission.n_running == 2)
            async with server.client() as late:
                response = await late.get("/healthz")
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert "max_connections = 2" in response.json()["reject_message"]
        assert [(await task).status_code for task in working] == [200, 200]


# -- uploads that break off


async def test_an_upload_goes_on_after_a_restart(tmp_path: Path) -> None:
    data = bytes(range(256)) * 120_000  # some blocks
    url = "/canisters/llama_cpp/files/large"
    async with served(tmp_path) as server, server.client() as client:

        async def part() -> AsyncIterator[bytes]:
            for start in range(0, 20_000_000, 100_000):
                yield data[start : start + 100_000]
            raise ConnectionError("the cable was pulled")

        with pytest.raises(ConnectionError):
            await client.put(url, content=part())
        await until(lambda: server.host.default.streams.n_running == 0)
        details = (await client.post("/uploaded_file_details", json={"filename": "large"})).json()["Ok"]
        confirmed = details["filesize"]
        # Whole blocks were confirmed, nothing that was not sent, and the hash is theirs.
        assert 8_000_000 < confirmed <= 20_000_000
        assert details["filesha256"] == hashlib.sha256(data[:confirmed]).hexdigest()
    async with served(tmp_path) as server, server.client() as client:
        wrong = await client.put(url, params={"offset": confirmed + 1}, content=b"x")
        assert wrong.status_code == 400
        whole = (await client.put(url, params={"offset": confirmed}, content=data[confirmed:])).json()["Ok"]
        assert whole["filesize"] == len(data)
        assert whole["filesha256"] == hashlib.sha256(data).hexdigest()
        assert (await client.get(url)).content == data
