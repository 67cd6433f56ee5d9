"""Talk to a canister from Python, over REST.

    async with Canister("http://127.0.0.1:8000", "llama_cpp", api_key=key) as canister:
        reply = await canister.run_update(InputRecord(args=["-p", "Hello"]))
        print(reply.value.output, reply.instructions)

Arguments and values are the records of `canister.records`, by the interface table. What can go wrong:

    ClientError
      UnknownMethod      no such method; said before anything is sent
      Unreachable        no answer: connection refused or broken, or too slow
      ProtocolError      an answer that no canister gives
      Refused            the method answered `Err`; holds the record
      Rejected           the call failed as a whole and left no trace

Nothing is retried here: see `canister.transfer`.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast
from urllib.parse import quote, urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from canister.calls import Calls
from canister.interface import BY_NAME, Method
from canister.records import ApiError, FileUploadRecord, RunOutputRecord

CONNECT_SECONDS = 10.0
CALL_SECONDS = 600.0  # a call may wait for others and decode for minutes

T = TypeVar("T")


class ClientError(Exception):
    """Why there is no value; the message is for a person."""


class UnknownMethod(ClientError):
    pass


class Unreachable(ClientError):
    pass


class ProtocolError(ClientError):
    pass


class Refused(ClientError):
    """record: what stood inside `Err`. retry_after_seconds: when the server asked for a pause."""

    def __init__(
        self, record: ApiError | RunOutputRecord, http_status: int, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(_err_text(record))
        self.record = record
        self.http_status = http_status
        self.retry_after_seconds = retry_after_seconds


class Rejected(ClientError):
    def __init__(
        self,
        reject_code: int,
        error_code: str,
        message: str,
        http_status: int,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reject_code = reject_code
        self.error_code = error_code
        self.message = message
        self.http_status = http_status
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What a method answered. instructions, cycles: None where the server does not tell."""

    value: T
    instructions: int | None = None
    cycles: int | None = None


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as it came: the JSON document, and what HTTP said about it."""

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
        near = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.5)
        hint = f"Did you mean '{near[0]}'?" if near else f"The methods are {', '.join(BY_NAME)}."
        raise UnknownMethod(f"There is no method '{name}'. {hint}")
    return method


def is_loopback(url: str) -> bool:
    """True when nothing sent to this URL leaves the machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Canister(Calls):
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
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            trust_env=not is_loopback(url),  # a proxy has no business between a machine and itself
            transport=transport,
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
        answer = await self.call_raw(name, to_json(arg), timeout_seconds=timeout_seconds)
        value = _decode(method, answer)
        return Result(value, _number(answer, "X-IC-Instructions"), _number(answer, "X-IC-Cycles"))

    async def call_raw(self, name: str, arg: object = None, *, timeout_seconds: float | None = None) -> RawAnswer:
        """Call a method with a JSON value and give the answer as it came, whatever it says."""
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
        return _raw(response)

    async def engine(self) -> dict[str, Any]:
        """How the server runs the canister's model, and what its engine is doing. Raises Refused, Rejected."""
        answer = _raw(await self._request("GET", f"{self._path}/engine"))
        if answer.is_ok and isinstance(answer.document, dict):
            return answer.document
        _decode(BY_NAME["file_upload_chunk"], answer)  # errors look as those of a method
        raise ProtocolError(f"{self.url} told nothing of the engine: {str(answer.document)[:200]}")

    async def put_file(self, path: str, blocks: AsyncIterator[bytes], *, offset: int = 0) -> Result[FileUploadRecord]:
        """Upload a file of any size as one stream; if it breaks off, the server keeps what it confirmed."""
        response = await self._request(
            "PUT",
            self._file_path(path),
            params={"offset": offset},
            content=blocks,
            headers={"Content-Type": "application/octet-stream"},
        )
        return Result(_decode(BY_NAME["file_upload_chunk"], _raw(response)))

    @asynccontextmanager
    async def get_file(self, path: str, *, first: int = 0) -> AsyncIterator[Download]:
        """Fetch a file as one stream, from byte `first` on."""
        headers = {"Range": f"bytes={first}-"} if first else {}
        try:
            async with self._http.stream("GET", self._file_path(path), headers=headers) as response:
                if response.is_error:
                    await response.aread()
                    _decode(BY_NAME["file_download_chunk"], _raw(response))
                yield _download(response, first)
        except httpx.TransportError as error:
            raise Unreachable(f"{self.url} broke off while '{path}' was fetched: {_reason(error)}") from error

    @property
    def _path(self) -> str:
        return f"/canisters/{quote(self.name, safe='')}"

    def _file_path(self, path: str) -> str:
        return f"{self._path}/files/{quote(path.lstrip('/'))}"

    async def _request(self, verb: str, path: str, **options: Any) -> httpx.Response:
        try:
            return await self._http.request(verb, path, **options)
        except httpx.TransportError as error:
            raise Unreachable(f"No answer from {self.url}: {_reason(error)}") from error
        except httpx.InvalidURL as error:
            raise Unreachable(f"{self.url} is not a usable URL: {error}") from error


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__


def to_json(value: object) -> object:
    """Records as JSON; what is JSON already stays."""
    return to_jsonable_python(value, by_alias=True)


def _raw(response: httpx.Response) -> RawAnswer:
    try:
        document = response.json()
    except ValueError:
        raise ProtocolError(
            f"{response.request.url} answered HTTP {response.status_code}, not JSON: {response.text[:200]!r}"
        ) from None
    return RawAnswer(response.status_code, document, response.headers)


def _decode(method: Method, answer: RawAnswer) -> Any:
    """The value inside `Ok`, or the bare one; raises Refused and Rejected."""
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
    except ValidationError as error:
        raise ProtocolError(f"{method.name} answered something else than it should: {error}") from None
    raise ProtocolError(f"{method.name} answered HTTP {answer.http_status}: {str(document)[:200]}")


def _download(response: httpx.Response, first: int) -> Download:
    etag = response.headers.get("ETag", "").strip('"')
    length = int(response.headers.get("Content-Length", 0))
    if first and response.status_code != httpx.codes.PARTIAL_CONTENT:
        raise ProtocolError(f"{response.request.url} ignored the Range that was asked for")
    return Download(first + length, first, etag if len(etag) == 64 else None, response.aiter_bytes())


def _err_text(record: ApiError | RunOutputRecord) -> str:
    if isinstance(record, RunOutputRecord):
        return record.error
    return record.Other if record.Other is not None else f"StatusCode {record.StatusCode}"


def _number(answer: RawAnswer, header: str) -> int | None:
    value = answer.headers.get(header, "")
    return int(value) if value.isascii() and value.isdigit() else None


def _retry_after(answer: RawAnswer) -> float | None:
    seconds = _number(answer, "Retry-After")
    return None if seconds is None else float(seconds)
