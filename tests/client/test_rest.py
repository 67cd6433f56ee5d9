"""The Python client: what goes over the wire, and what each kind of answer becomes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from canister.api.records import (
    CopyPromptCacheInputRecord,
    FileUploadInputRecord,
    InputRecord,
    MaxTokensRecord,
    RunOutputRecord,
)
from canister.client.errors import ProtocolError, Refused, Rejected, UnknownMethod, Unreachable
from canister.client.http_library import is_loopback
from canister.client.rest import Canister

pytestmark = pytest.mark.anyio


def canister(answer: Callable[[httpx.Request], httpx.Response], key: str | None = None) -> Canister:
    return Canister("http://127.0.0.1:8000/", "llama_cpp", key, transport=httpx.MockTransport(answer))


async def value_of(method: str, status: int, document: object, headers: dict[str, str] | None = None) -> object:
    async with canister(lambda _: httpx.Response(status, json=document, headers=headers)) as client:
        return (await client.call(method)).value


async def test_a_call_is_a_post_of_the_record_with_the_key() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        record = RunOutputRecord(status_code=200, output=" time").model_dump()
        return httpx.Response(200, json={"Ok": record}, headers={"X-IC-Instructions": "123", "X-IC-Cycles": "9"})

    async with canister(answer, "lc_key") as client:
        result = await client.call("run_update", InputRecord(args=["-p", "Once upon a"]))
    assert result.value == RunOutputRecord(status_code=200, output=" time")
    assert (result.instructions, result.cycles) == (123, 9)
    (request,) = seen
    assert (request.method, str(request.url)) == (
        "POST",
        "http://127.0.0.1:8000/canisters/llama_cpp/run_update",
    )
    assert request.headers["Authorization"] == "Bearer lc_key"
    assert json.loads(request.content) == {"args": ["-p", "Once upon a"]}


async def test_without_a_key_nothing_is_said_about_the_caller() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert "Authorization" not in request.headers
        assert request.content == b""
        return httpx.Response(200, json="2vxsx-fae")

    async with canister(answer) as client:
        assert (await client.call("whoami")).value == "2vxsx-fae"


@pytest.mark.parametrize(
    ("arg", "wire"),
    [
        (CopyPromptCacheInputRecord(**{"from": "a", "to": "b"}), {"from": "a", "to": "b"}),
        (
            FileUploadInputRecord(filename="f", chunk=b"\x00\xff", chunksize=2, offset=0),
            {"filename": "f", "chunk": "AP8=", "chunksize": 2, "offset": 0},
        ),
        ("2vxsx-fae", "2vxsx-fae"),
    ],
)
async def test_arguments_on_the_wire(arg: object, wire: object) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content) == wire
        return httpx.Response(200, json={"Ok": {"status_code": 200}})

    async with canister(answer) as client:
        await client.call("check_access", arg)


async def test_bare_answers_have_their_type() -> None:
    document = {"max_tokens_update": 5, "max_tokens_query": 0}
    assert await value_of("get_max_tokens", 200, document) == MaxTokensRecord(**document)


async def test_err_holds_the_record_and_its_text() -> None:
    with pytest.raises(Refused, match=r"^Access Denied$") as caught:
        await value_of("load_model", 401, {"Err": {"status_code": 401, "error": "Access Denied"}})
    assert isinstance(caught.value.record, RunOutputRecord)
    assert (caught.value.record.status_code, caught.value.http_status) == (401, 401)
    with pytest.raises(Refused, match="too many") as caught:
        await value_of("ready", 429, {"Err": {"Other": "too many"}}, {"Retry-After": "3"})
    assert caught.value.retry_after_seconds == 3.0


async def test_reject_holds_its_codes() -> None:
    document = {"reject_code": 5, "error_code": "IC0503", "reject_message": "Canister trapped"}
    with pytest.raises(Rejected, match="Canister trapped") as caught:
        await value_of("run_update", 500, document)
    assert (caught.value.reject_code, caught.value.error_code) == (5, "IC0503")


@pytest.mark.parametrize(
    ("method", "status", "content"),
    [
        ("health", 502, b"<html>Bad Gateway</html>"),
        ("health", 200, b'"ok"'),
        ("health", 200, b'{"Ok": {"status_code": "no number"}}'),
        ("whoami", 500, b'"an error that looks like an answer"'),
        ("get_max_tokens", 200, b"[]"),
    ],
)
async def test_what_no_canister_answers_is_told(method: str, status: int, content: bytes) -> None:
    async with canister(lambda _: httpx.Response(status, content=content)) as client:
        with pytest.raises(ProtocolError):
            await client.call(method)


async def test_unknown_method_is_told_before_anything_is_sent() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise AssertionError("sent")

    async with canister(answer) as client:
        with pytest.raises(UnknownMethod, match=r"'run_updat'\. Did you mean 'run_update'\?"):
            await client.call("run_updat")
        with pytest.raises(UnknownMethod, match="The methods are health, ready"):
            await client.call("zzzzzz")


async def test_no_answer_is_unreachable() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    async with canister(answer) as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:8000.*connection refused"):
            await client.call("health")


async def test_files_as_streams() -> None:
    stored = b""

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal stored
        assert request.url.raw_path.startswith(b"/canisters/llama_cpp/files/logs/a%20b%3F.log")
        if request.method == "PUT":
            assert request.url.params["offset"] == "0"
            stored = request.read()
            return httpx.Response(200, json={"Ok": {"filename": "f", "filesize": len(stored), "filesha256": ""}})
        assert request.headers["Range"] == "bytes=2-"
        return httpx.Response(206, content=stored[2:], headers={"ETag": f'"{"a" * 64}"'})

    async def blocks() -> AsyncIterator[bytes]:
        for block in (b"one", b"two"):
            yield block

    async with canister(answer) as client:
        assert (await client.put_file("logs/a b?.log", blocks())).value.filesize == 6
        async with client.get_file("logs/a b?.log", first=2) as download:
            assert (download.filesize, download.first, download.sha256) == (6, 2, "a" * 64)
            assert b"".join([block async for block in download.blocks]) == b"etwo"


async def test_missing_file_is_refused() -> None:
    async with canister(lambda _: httpx.Response(404, json={"Err": {"Other": "no such file"}})) as client:
        with pytest.raises(Refused, match="no such file"):
            async with client.get_file("f"):
                pass


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost", True),
        ("http://[::1]:80", True),
        ("http://192.168.0.7:8000", False),
        ("http://localhost.example.org", False),
        ("http://127.0.0.1.example.org", False),
    ],
)
def test_loopback(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected
