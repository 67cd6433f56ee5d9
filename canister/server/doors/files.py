"""Files as plain bytes: `PUT` and `GET /canisters/{name or id}/files/{path}`, for files too large for base64 chunks.

The same rules and metadata as `file_upload_chunk` and `file_download_chunk`. A file is never held in memory, only a
slice of it that names its digest: it is stored once it is known to have come as it was sent (`content_digest.py`).
`DELETE` is `filesystem_remove`. A path that is empty or ends with a slash is a folder, which `GET` lists. One range is
served (RFC 9110, section 14); several or an unreadable one give the whole file.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from canister.api import rest_only
from canister.dispatch import Reply
from canister.errors import BadArgument, Cancelled
from canister.server import answers
from canister.server.doors import content_digest, resources
from canister.server.requests import caller, dispatcher
from canister.server.verbs import ANY_VERB, READ_VERBS
from canister.telemetry import metrics

if TYPE_CHECKING:
    from canister.dispatch import OpenFile, Target

VERBS = "GET, HEAD, PUT, DELETE"
FOLDER_VERBS = {"GET": rest_only.LIST_FOLDER, "DELETE": rest_only.REMOVE_FILE}

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})", re.IGNORECASE)
_OFFSET = re.compile(r"[0-9]{1,19}")


def routes() -> list[Route]:
    return [
        Route("/canisters/{canister}/files", file, methods=ANY_VERB),
        Route("/canisters/{canister}/files/{path:any}", file, methods=ANY_VERB),
    ]


async def file(request: Request) -> Response:
    """Upload, download or remove one file, or list a folder."""
    canister = dispatcher(request).find(request.path_params["canister"])
    if request.method not in VERBS.split(", "):
        return answers.wrong_verb(f"a file is read with GET and written with PUT, not {request.method}", VERBS)
    path = path_of(request)
    is_folder = path == "" or path.endswith("/")
    if request.method == "DELETE" or (is_folder and request.method in READ_VERBS):
        request.path_params["path"] = path
        return await resources.answer(FOLDER_VERBS, {}, request)
    with metrics.counted(canister.name, f"{'PUT' if request.method == 'PUT' else 'GET'} file") as outcome:
        response = await (upload if request.method == "PUT" else download)(request, canister)
        outcome.is_ok = response.status_code < 400
        return response


# -- upload


async def upload(request: Request, canister: Target) -> Response:
    """Store the body at its offset. Confirmed bytes stay when the upload breaks off, and it can continue from there."""
    offset, size = upload_position(
        request.headers.get("content-range"),
        request.query_params.get("offset"),
        request.headers.get("content-length"),
    )
    blocks = _exactly(size, _body(request))
    digests = content_digest.read(request.headers.getlist("content-digest"))
    if digests:
        blocks = content_digest.checked(blocks, digests)
    reply = await canister.store_stream(caller(request), path_of(request), offset, blocks)
    return answers.uploaded(reply)


def upload_position(
    content_range: str | None, offset: str | None, content_length: str | None
) -> tuple[int, int | None]:
    """Where the body belongs, and how many bytes it must have if that is said. BadArgument for contradictions."""
    if offset is not None and not _OFFSET.fullmatch(offset):
        raise BadArgument(f"?offset={offset[:40]} is not a number of bytes, such as ?offset=2000000")
    if content_range is None:
        return int(offset or 0), None
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    if match is None:
        raise BadArgument(
            f"Content-Range: {content_range[:60]!r} is not understood; it looks like 'bytes 0-1999999/31457280'"
        )
    first, last = int(match[1]), int(match[2])
    if last < first or (match[3] != "*" and last >= int(match[3])):
        raise BadArgument(f"Content-Range: {content_range[:60]!r} ends before it begins or beyond the whole")
    if offset is not None and int(offset) != first:
        raise BadArgument(f"?offset={offset} and Content-Range: {content_range[:60]!r} contradict each other")
    size = last - first + 1
    if content_length is not None and content_length.isdecimal() and int(content_length) != size:
        raise BadArgument(
            f"Content-Range: {content_range[:60]!r} speaks of {size} bytes, the body has {content_length}"
        )
    return first, size


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for block in request.stream():
            yield block
    except ClientDisconnect:
        raise Cancelled("the client went away during its upload; go on at the size that the file has") from None


async def _exactly(size: int | None, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same blocks. BadArgument as soon as they are more than `size` bytes, or at the end when they are fewer."""
    n_bytes = 0
    async for block in blocks:
        n_bytes += len(block)
        if size is not None and n_bytes > size:
            break
        yield block
    if size is not None and n_bytes != size:
        found = "more" if n_bytes > size else str(n_bytes)
        raise BadArgument(f"Content-Range speaks of {size} bytes, the body has {found}")


# -- download


async def download(request: Request, canister: Target) -> Response:
    """The file, or the one requested range."""
    found = await canister.read_stream(caller(request), path_of(request))
    if isinstance(found, Reply):
        return answers.error(found)
    try:
        response = _response(request, found)
    except BaseException:
        found.close()
        raise
    if not isinstance(response, _FileResponse):
        found.close()
    return response


def _response(request: Request, found: OpenFile) -> Response:
    etag = None if found.sha256 is None else f'"{found.sha256}"'
    changed = formatdate(found.modified_ns / 1e9, usegmt=True)
    headers = {
        "Accept-Ranges": "bytes",
        "Last-Modified": changed,
        # A browser must never take a caller's upload for a page of ours.
        "X-Content-Type-Options": "nosniff",
    }
    if etag is not None:
        headers["ETag"] = etag
        if etag in _listed(request.headers.get("if-none-match", "")):
            return Response(None, 304, headers)
    first, end, status = 0, found.size, 200
    if request.headers.get("if-range", etag) in (etag, changed):
        try:
            part = byte_range(request.headers.get("range"), found.size)
        except ValueError as error:
            return answers.document(
                {"Err": {"Other": str(error)}}, 416, {**headers, "Content-Range": f"bytes */{found.size}"}
            )
        if part is not None:
            first, end, status = *part, 206
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{found.size}"
    headers["Content-Length"] = str(end - first)
    if request.method == "HEAD":
        return Response(None, status, headers, "application/octet-stream")
    return _FileResponse(found, first, end, status, headers)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end (exclusive) of the requested range; None: all. ValueError when it lies outside (416)."""
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or match[1] == match[2] == "" or (match[2] and match[1] and int(match[2]) < int(match[1])):
        return None
    if match[1]:
        first, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
    else:
        first, end = max(0, size - int(match[2])), size
    if first >= end:
        raise ValueError(f"the range {match[0]!r} lies outside the file, which has {size} bytes")
    return first, end


def _listed(header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]


class _FileResponse(StreamingResponse):
    """Bytes first…end of a file, which is closed as soon as they are sent or the client is gone."""

    def __init__(self, found: OpenFile, first: int, end: int, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(found.blocks(first, end), status, headers, "application/octet-stream")
        self._found = found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Do not leave this to the garbage collector: open files count against the limit on streams.
        try:
            async with aclosing(self.body_iterator):  # type: ignore[type-var]  # an async generator
                await super().__call__(scope, receive, send)
        finally:
            self._found.close()


# -- paths


def path_of(request: Request) -> str:
    """The path behind `/files/`, percent-decoded once. The store decides whether it may be used."""
    raw: bytes = request.scope["raw_path"]
    encoded = b"".join(raw.partition(b"?")[0].split(b"/", 4)[4:])
    try:
        return unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise BadArgument(f"the file path {encoded[:60]!r} is not UTF-8") from None
