"""Bodies in gzip are read as what they become, within the same bounds; answers that never change go in gzip."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.server.doors.test_rest import is_reject
from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

GZIP = {"Content-Encoding": "gzip"}
TOKENS = json.dumps({"max_tokens_update": 3, "max_tokens_query": 4}).encode()


@pytest.mark.parametrize("name", ["gzip", "GZIP", " gzip "])
async def test_a_body_in_gzip(controller: httpx.AsyncClient, name: str) -> None:
    response = await controller.post(
        "/set_max_tokens", content=gzip.compress(TOKENS, mtime=0), headers={"Content-Encoding": name}
    )
    assert response.status_code == 200
    assert (await controller.get("/get_max_tokens")).json() == {"max_tokens_update": 3, "max_tokens_query": 4}


async def test_a_large_body_in_small_pieces(controller: httpx.AsyncClient) -> None:
    name = "x" * 300_000
    body = gzip.compress(json.dumps({"filename": name}).encode())

    async def pieces() -> AsyncIterator[bytes]:
        for byte in range(0, len(body), 7):
            yield body[byte : byte + 7]

    response = await controller.post("/filesystem_file_size", content=pieces(), headers=GZIP)
    assert response.status_code == 400
    assert "has more than 1024 bytes" in response.json()["Err"]["Other"]


async def test_what_it_becomes_is_bounded(controller: httpx.AsyncClient) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    response = await controller.post("/set_max_tokens", content=bomb, headers=GZIP)
    is_reject(response, 413, "at most 1000000 are taken")


async def test_a_chat_is_put_in_gzip_and_a_file_is_not(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True) as server, server.client() as client:
        talk = gzip.compress(b'{"messages":[{"role":"user","content":"Hi"}]}')
        put = await client.put("/canisters/llama_cpp/chats/a", content=talk, headers=GZIP)
        assert put.status_code == 200, put.text
        assert (await client.get("/canisters/llama_cpp/chats/a")).json()["messages"][0]["content"] == "Hi"
        put = await client.put("/canisters/llama_cpp/files/chats/a", content=talk, headers=GZIP)
        assert (put.status_code, put.headers["accept-encoding"]) == (415, "identity")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (TOKENS, "the body is not gzip"),
        (gzip.compress(TOKENS, mtime=0)[:-9], "ends before its gzip stream does"),
        (gzip.compress(TOKENS, mtime=0) + b"more", "goes on after its gzip stream"),
        (gzip.compress(TOKENS, mtime=0)[:-8] + bytes(8), "the body is not gzip"),
    ],
)
async def test_what_is_no_gzip(controller: httpx.AsyncClient, body: bytes, said: str) -> None:
    is_reject(await controller.post("/set_max_tokens", content=body, headers=GZIP), 400, said)


async def test_a_method_without_argument_ignores_it(anonymous: httpx.AsyncClient) -> None:
    for body in (b"", b"not gzip", gzip.compress(b"x")[:-3]):
        assert (await anonymous.post("/health", content=body, headers=GZIP)).status_code == 200
    assert (await anonymous.get("/health", headers=GZIP)).status_code == 200


@pytest.mark.parametrize("name", ["br", "deflate", "gzip, gzip", "x-unknown"])
async def test_other_encodings_are_refused(controller: httpx.AsyncClient, name: str) -> None:
    response = await controller.post("/set_max_tokens", content=TOKENS, headers={"Content-Encoding": name})
    is_reject(response, 415, name, "leave out Content-Encoding")
    assert response.headers["accept-encoding"] == "gzip"


async def test_files_are_stored_as_they_are_sent(controller: httpx.AsyncClient) -> None:
    url = "/canisters/llama_cpp/files/x.gz"
    is_reject(await controller.put(url, content=gzip.compress(b"x"), headers=GZIP), 415, "stored as it is sent")
    assert (await controller.get(url)).status_code == 404
    assert (await controller.put(url, content=b"x", headers={"Content-Encoding": "identity"})).status_code == 200


async def test_a_gzip_body_counts_among_those_held(tmp_path: Path) -> None:
    """By what it becomes: else many small bodies would fill the memory."""
    async with (
        served(tmp_path, max_body_bytes=4_000_000, max_held_bytes=1_000_000) as server,
        server.client() as client,
    ):
        response = await client.post("/set_max_tokens", content=gzip.compress(b" " * 3_000_000), headers=GZIP)
        is_reject(response, 503, "max_held_bytes = 1000000")


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"])
async def test_large_answers_are_compressed(anonymous: httpx.AsyncClient, path: str) -> None:
    plain = await anonymous.get(path, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    packed = await anonymous.get(path, headers={"Accept-Encoding": "br, gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2


async def test_served_over_a_socket(tmp_path: Path) -> None:
    server: Served
    async with served(tmp_path) as server, server.client() as client:
        response = await client.post("/set_max_tokens", content=gzip.compress(TOKENS, mtime=0), headers=GZIP)
        assert response.status_code == 200
