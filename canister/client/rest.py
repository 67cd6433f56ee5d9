"""Talk to a canister from Python, over REST.

    async with Canister("http://127.0.0.1:8000", "llama_cpp", api_key=key) as canister:
        reply = await canister.run_update(InputRecord(args=["-p", "Hello"]))
        print(reply.value.output, reply.instructions)

Arguments and values are the records of `canister.api.records`, by the interface table. Every error is one of
`canister.client.errors`. Nothing is retried here: see `canister.client.transfer`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from canister.api.methods import BY_NAME, Method
from canister.api.records import ApiError, FileUploadRecord, RunOutputRecord
from canister.client import answer
from canister.client.errors import (
    ClientError,
    NotConnected,
    ProtocolError,
    Refused,
    Rejected,
    UnknownMethod,
    Unreachable,
)
from canister.client.http_library import (
    CONNECT_SECONDS,
    NEVER_CONNECTED,
    async_transport,
    base_url,
    httpx,
    is_loopback,
    no_answer,
    not_ours,
    reason,
    trust,
)
from canister.client.methods import MethodCalls
from canister.client.result import Piece, Result

__all__ = [
    "Canister",
    "ClientError",
    "Download",
    "NotConnected",
    "ProtocolError",
    "RawAnswer",
    "Refused",
    "Rejected",
    "Result",
    "UnknownMethod",
    "Unreachable",
    "find_method",
    "httpx",
    "is_loopback",
    "to_json",
]

LINES = "application/x-ndjson"
CALL_SECONDS = 600.0  # a call may wait for others and decode for minutes


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as it came: the JSON document, with its HTTP status and headers."""

    http_status: int
    document: object
    headers: Mapping[str, str]

    @property
    def is_ok(self) -> bool:
        return self.http_status < 400


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is being fetched. first: position of the first byte of `blocks`; sha256: if known."""

    filesize: int
    first: int
    sha256: str | None
    blocks: AsyncIterator[bytes]


def find_method(name: str) -> Method:
    """The row of the interface table; UnknownMethod names the nearest."""
    method = BY_NAME.get(name)
    if method is None:
        from canister.errors.nearest import nearest  # only a slip needs it

        near = nearest(name, BY_NAME)
        hint = f"Did you mean '{near}'?" if near else f"The methods are {', '.join(BY_NAME)}."
        raise UnknownMethod(f"There is no method '{name}'. {hint}")
    return method


class Canister(MethodCalls):
    """One canister of a server, by name or id; without api_key the caller is anonymous."""

    def __init__(
        self,
        url: str,
        canister: str,
        api_key: str | None = None,
        *,
        timeout_seconds: float = CALL_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.name = canister
        self._http = httpx.AsyncClient(
            base_url=base_url(self.url),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            **trust(url),
            transport=transport or async_transport(self.url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, name: str, arg: object = None, *, timeout_seconds: float | None = None) -> Result[Any]:
        """Call a method and decode its answer to the types of the interface table.

        arg: a record, or what its type is made of (`revokeAdminRole` takes a str). Raises ClientError.
        """
        method = find_method(name)
        raw = await self.call_raw(name, to_json(arg), timeout_seconds=timeout_seconds)
        return Result(_decode(method, raw, self.url), _number(raw, "X-IC-Instructions"), _number(raw, "X-IC-Cycles"))

    async def call_raw(self, name: str, arg: object = None, *, timeout_seconds: float | None = None) -> RawAnswer:
        """Call a method with a JSON value and return the answer as it came, whatever it says."""
        find_method(name)
        response = await self._request(
            "POST",
            f"{self._path}/{quote(name, safe='')}",
            content=None if arg is None else json.dumps(arg).encode(),
            headers={"Content-Type": "application/json"},
            timeout=httpx.USE_CLIENT_DEFAULT
            if timeout_seconds is None
            else httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
        )
        return self._raw(response)

    async def stream(self, name: str, arg: object = None) -> AsyncGenerator[Piece | Result[Any]]:
        """Call run_update or run_query. Yields the text while it runs, and at last the result. Raises ClientError.

        A caller who stops listening cancels the call. The result has no costs if there was any text.
        """
        method = find_method(name)
        path, content = f"{self._path}/{quote(name, safe='')}", json.dumps(to_json(arg)).encode()
        headers = {"Content-Type": "application/json", "Accept": LINES}
        try:
            async with self._http.stream("POST", path, content=content, headers=headers) as response:
                async for line in response.aiter_lines():
                    try:
                        document = json.loads(line)
                    except ValueError:
                        raise not_ours(self.url, response.status_code, response.headers) from None
                    if isinstance(document, dict) and "text" in document:
                        yield Piece(str(document["text"]), is_echo=bool(document.get("echo")))
                        continue
                    raw = RawAnswer(response.status_code, document, response.headers)
                    value = _decode(method, raw, self.url)
                    yield Result(value, _cost(raw, "instructions"), _cost(raw, "cycles"))
                    return
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise no_answer(self.url, error) from error
        raise Unreachable(f"{self.url} broke off while {name} ran")

    def ask(
        self,
        messages: str | Sequence[Mapping[str, object]],
        *,
        cache: str | None = None,
        flags: Sequence[str] = (),
        answer_tokens: int = 512,
        stops: Sequence[str] = (),
    ) -> AsyncGenerator[str]:
        """The answer to a question, or to a conversation so far, piece by piece as it is decoded.

            async for text in canister.ask([{"role": "user", "content": "Who are you?"}]):
                print(text, end="", flush=True)

        messages: role and content of each; the model's chat template makes the prompt. It takes as many calls as their
        limits ask for. cache: of a conversation that goes on, so that only what is new in it is decoded; without one
        nothing stays. flags: llama.cpp's, for instance for sampling. stops: strings that end the answer. Raises
        ClientError.
        """
        return answer.ask(self, messages, cache=cache, flags=flags, answer_tokens=answer_tokens, stops=stops)

    async def engine(self) -> dict[str, Any]:
        """How the server runs the canister's model, and what its engine is doing. Raises Refused, Rejected."""
        return await self._page("engine")

    async def running_calls(self) -> dict[str, Any]:
        """The calls that the canister works on, and how many wait, for its controllers. Raises Refused, Rejected."""
        return await self._page("calls")

    async def models(self, limit: int = 500, after: str | None = None) -> dict[str, Any]:
        """The models in stable memory, as their headers tell: `limit` of them behind `next` of the page before.

        Raises Refused, Rejected.
        """
        return await self._page("models", params={"limit": limit, **({} if after is None else {"after": after})})

    async def all_models(self) -> AsyncIterator[dict[str, Any]]:
        """Each of the models, read by pages. Raises Refused, Rejected."""
        after = None
        while True:
            page = await self.models(after=after)
            for model in page["models"]:
                yield model
            if (after := page["next"]) is None:
                return

    async def model(self, path: str) -> dict[str, Any]:
        """A model of stable memory in detail. Raises Refused, Rejected."""
        return await self._page(f"models/{quote(path)}")

    async def unload_model(self) -> dict[str, Any]:
        """Unload the model that is loaded; its path. Raises Refused, Rejected."""
        return await self._page("engine", "DELETE")

    async def receipt(self, id: str, *, since: int = 0, cbor: bool = False) -> bytes:
        """The receipt of a call of this caller's, as a file. id: X-IC-Receipt of its answer, or its number.

        since: it also proves that so many records are still the first. Raises Refused, Rejected.
        """
        path, wanted = f"{self._path}/receipts/{quote(id, safe='')}", "application/cbor" if cbor else "application/json"
        response = await self._request("GET", path, params={"since": since}, headers={"Accept": wanted})
        if response.is_error:
            _decode(BY_NAME["file_upload_chunk"], self._raw(response), self.url)  # errors look as those of a method
        return response.content

    async def receipts(self, cache: str) -> list[dict[str, Any]]:
        """This caller's calls on one of its prompt caches, the newest first. Raises Refused, Rejected."""
        match await self._page("receipts", params={"cache": cache, "limit": 1000}):
            case {"receipts": list(rows)}:
                return rows
        raise ProtocolError(f"{self.url} lists no receipts")

    async def receipt_head(self) -> dict[str, Any]:
        """The certified head of the canister's chain of receipts. Raises Refused, Rejected."""
        return await self._page("receipts")

    async def audit(self, call: int) -> dict[str, Any]:
        """What comes of a call when its server decodes it again, for admins. Raises Refused, Rejected."""
        return await self._page(f"receipts/{call}/audit", "POST")

    async def sign_in_code(self) -> str:
        """A code that signs a browser in as this caller: it counts once, for ten minutes. Raises Refused, Rejected."""
        return str((await self._server_page("/session/codes", "POST"))["code"])

    async def id(self) -> str:
        """The id of the canister. Raises Rejected."""
        return str((await self._server_page(self._path, "GET"))["id"])

    async def sign_in(self, signed: bytes) -> str:
        """The API key of a browser for who has signed this message, for eight hours. Raises Rejected."""
        headers = {"Content-Type": "application/cbor"}
        return str((await self._server_page("/session", "POST", content=signed, headers=headers))["key"])

    async def sign_out(self) -> None:
        """Revoke the key of a browser with which this client calls. Raises Rejected."""
        await self._server_page("/session", "DELETE")

    async def _page(self, name: str, verb: str = "GET", **options: Any) -> dict[str, Any]:
        return await self._server_page(f"{self._path}/{name}", verb, **options)

    async def _server_page(self, path: str, verb: str, **options: Any) -> dict[str, Any]:
        answer = self._raw(await self._request(verb, path, **options))
        if answer.is_ok and isinstance(answer.document, dict):
            return answer.document
        _decode(BY_NAME["file_upload_chunk"], answer, self.url)  # errors look as those of a method
        raise not_ours(self.url, answer.http_status, answer.headers)

    async def document(
        self, verb: str, path: str, body: object = None, params: Mapping[str, str | int] | None = None
    ) -> dict[str, Any]:
        """REST's answer below the canister's path, beside its methods, such as `props`. Raises ClientError."""
        content = None if body is None else json.dumps(to_json(body)).encode()
        headers = {"Content-Type": "application/json"}
        return await self._page(quote(path), verb, content=content, headers=headers, params=params)

    async def put_file(self, path: str, blocks: AsyncIterator[bytes], *, offset: int = 0) -> Result[FileUploadRecord]:
        """Upload a file of any size as one stream; if it breaks off, the server keeps what it confirmed."""
        response = await self._request(
            "PUT",
            self._file_path(path),
            params={"offset": offset},
            content=blocks,
            headers={"Content-Type": "application/octet-stream"},
        )
        return Result(_decode(BY_NAME["file_upload_chunk"], self._raw(response), self.url))

    @asynccontextmanager
    async def get_file(self, path: str, *, first: int = 0) -> AsyncIterator[Download]:
        """Fetch a file as one stream, from byte `first` on."""
        headers = {"Range": f"bytes={first}-"} if first else {}
        try:
            async with self._http.stream("GET", self._file_path(path), headers=headers) as response:
                if response.is_error:
                    await response.aread()
                    _decode(BY_NAME["file_download_chunk"], self._raw(response), self.url)
                yield _download(response, first)
        except httpx.TransportError as error:
            if isinstance(error, NEVER_CONNECTED):
                raise no_answer(self.url, error) from error
            raise Unreachable(f"{self.url} broke off while '{path}' was fetched: {reason(error)}") from error

    def _raw(self, response: httpx.Response) -> RawAnswer:
        try:
            document = response.json()
        except ValueError:
            raise not_ours(self.url, response.status_code, response.headers) from None
        return RawAnswer(response.status_code, document, response.headers)

    @property
    def _path(self) -> str:
        return f"/canisters/{quote(self.name, safe='')}"

    def _file_path(self, path: str) -> str:
        return f"{self._path}/files/{quote(path.lstrip('/'))}"

    async def _request(self, verb: str, path: str, **options: Any) -> httpx.Response:
        try:
            return await self._http.request(verb, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise no_answer(self.url, error) from error


def to_json(value: object) -> object:
    """Records as JSON; what is JSON already stays."""
    return to_jsonable_python(value, by_alias=True)


def _decode(method: Method, answer: RawAnswer, url: str) -> Any:
    """The value inside `Ok`, or the bare one. Raises Refused and Rejected."""
    document = answer.document
    pause = _retry_after(answer)
    try:
        match document:
            case {"reject_code": code, "error_code": error_code, "reject_message": message}:
                raise Rejected(int(cast(int, code)), str(error_code), str(message), answer.http_status, pause)
            case {"Err": record} if method.err is not None:
                err = method.err.model_validate(record)
                raise Refused(cast("ApiError | RunOutputRecord", err), answer.http_status, pause)
            case {"Ok": value} if method.err is not None:
                return TypeAdapter(method.ok).validate_python(value)
            case _ if method.err is None and answer.is_ok:
                return TypeAdapter(method.ok).validate_python(document)
    except (TypeError, ValueError, OverflowError):  # it looks like our answer and is not
        pass
    raise not_ours(url, answer.http_status, answer.headers)


def _download(response: httpx.Response, first: int) -> Download:
    etag = response.headers.get("ETag", "").strip('"')
    told = response.headers.get("Content-Length", "0")
    if not (told.isascii() and told.isdigit()) or len(told) > 19:
        raise ProtocolError(f"{response.request.url} tells a length that is none: {told[:40]!r}")
    length = int(told)
    if first and response.status_code != httpx.codes.PARTIAL_CONTENT:
        raise ProtocolError(f"{response.request.url} ignored the Range that was asked for")
    return Download(first + length, first, etag if len(etag) == 64 else None, response.aiter_bytes())


def _number(answer: RawAnswer, header: str) -> int | None:
    value = answer.headers.get(header, "")
    return int(value) if value.isascii() and value.isdigit() else None


def _cost(answer: RawAnswer, name: str) -> int | None:
    """A cost of a streamed call: its last line has it, or a header where nothing came before."""
    cost = answer.document.get("cost") if isinstance(answer.document, dict) else None
    value = cost.get(name) if isinstance(cost, dict) else None
    return value if isinstance(value, int) else _number(answer, f"X-IC-{name}")


def _retry_after(answer: RawAnswer) -> float | None:
    seconds = _number(answer, "Retry-After")
    return None if seconds is None else float(seconds)
