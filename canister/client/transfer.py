"""Upload to and download from a canister: in chunks, retried, resumed after an interruption, checked by hash.

An upload asks the canister what it has, and continues behind it if those are the bytes of the local file. A download
grows in `<file>.part`, which becomes the file when it is complete. Any client will do, over REST or signed. Progress
goes to a callback; nothing is printed here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from canister.api.record_types import Record
from canister.api.records import (
    DownloadPromptCacheInputRecord,
    FileDetailsInputRecord,
    FileDetailsRecord,
    FileDownloadInputRecord,
    FileDownloadRecord,
    FileUploadInputRecord,
    FileUploadRecord,
    PromptCacheDetailsInputRecord,
    UploadPromptCacheInputRecord,
)
from canister.client.errors import ClientError, NotConnected, Refused, Rejected, Unreachable
from canister.client.methods import MethodCalls
from canister.system.hashing import sha256_of_start

TransferKind = Literal["file", "promptcache"]
Progress = Callable[[int, int], None]  # bytes done, bytes in all

DEFAULT_CHUNK_BYTES = 2_000_000
CHUNK_SECONDS = 120.0  # after this long without an answer a chunk is sent again
RETRIED_HTTP_STATUS = frozenset({429, 503})
# Stopping: the server may be about to restart. Busy: there is room again when other calls have ended.
RETRIED_ERROR_CODES = frozenset({"IC0509", "IC0201"})

T = TypeVar("T")


class TransferError(Exception):
    """The bytes did not arrive, or were not the right ones. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and after which pauses a chunk is tried again. The pause doubles each time."""

    n_attempts: int = 10
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0
    on_retry: Callable[[ClientError, float], None] | None = None

    async def run(self, action: Callable[[], Awaitable[T]], *, is_first: bool = False) -> T:
        """Repeat `action` while it fails for a reason that may pass. It must be safe to repeat.

        is_first: nothing was sent before, so if nobody listens there, do not wait.
        """
        pause = self.first_pause_seconds
        for attempt in range(1, self.n_attempts + 1):
            try:
                return await action()
            except (Unreachable, Refused, Rejected) as error:
                if attempt == self.n_attempts or not _may_pass(error) or (is_first and isinstance(error, NotConnected)):
                    raise
                wait = max(pause, getattr(error, "retry_after_seconds", None) or 0.0)
                if self.on_retry is not None:
                    self.on_retry(error, wait)
            await asyncio.sleep(wait)
            pause = min(pause * 2, self.longest_pause_seconds)
        raise AssertionError("n_attempts must be at least 1")


def _may_pass(error: ClientError) -> bool:
    # Through the IC door a reject comes inside 200, and only its code tells.
    return (
        isinstance(error, Unreachable)
        or getattr(error, "http_status", 0) in RETRIED_HTTP_STATUS
        or getattr(error, "error_code", "") in RETRIED_ERROR_CODES
    )


@dataclass(frozen=True, slots=True)
class Transferred:
    """What is at the other end now. n_resumed_bytes: how many of its bytes were there before."""

    filesize: int
    sha256: str
    n_resumed_bytes: int


async def upload(
    canister: MethodCalls,
    source: Path,
    name: str,
    *,
    kind: TransferKind = "file",
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    expected_sha256: str | None = None,
    progress: Progress | None = None,
    retries: Retries | None = None,
    replaces: Callable[[FileDetailsRecord], Awaitable[None]] | None = None,
) -> Transferred:
    """Put a local file into the canister's stable memory. Raises TransferError, ClientError, OSError.

    expected_sha256: compared with the local file before anything is sent. replaces: told of another file of this name
    before the first byte is sent.
    """
    retries = retries or Retries()
    with source.open("rb", buffering=0) as file:
        filesize = os.fstat(file.fileno()).st_size
        sha256 = await asyncio.to_thread(sha256_of_start, file, filesize)
        if expected_sha256 is not None and expected_sha256.lower() != sha256:
            raise TransferError(
                f"{source} has the SHA-256 {sha256}, not {expected_sha256}: nothing was uploaded. Fetch the file again."
            )
        before = await retries.run(partial(_details, canister, name, kind), is_first=True)
        start = await _n_confirmed(before, file, filesize)
        if replaces is not None and before is not None and before.filesize and start == 0:
            await replaces(before)
        if progress is not None:
            progress(start, filesize)
        if start == filesize > 0:
            return Transferred(filesize, sha256, start)
        offset = start
        while True:
            file.seek(offset)
            chunk = file.read(min(chunk_bytes, filesize - offset))
            confirmed = await retries.run(partial(_send, canister, name, kind, chunk, offset))
            offset += len(chunk)
            if confirmed.filesize != offset:
                raise TransferError(
                    f"After {offset} bytes the canister has {confirmed.filesize} of '{name}': "
                    "somebody else is uploading to the same name. Try again when they are done."
                )
            if progress is not None:
                progress(offset, filesize)
            if offset == filesize:
                break
            if not chunk:
                raise TransferError(f"{source} became shorter while it was uploaded. Upload it again.")
    if confirmed.filesha256 != sha256:
        raise TransferError(
            f"'{name}' arrived with the SHA-256 {confirmed.filesha256}, but {source} had {sha256} "
            "when the upload began: the local file has changed meanwhile. Upload it again."
        )
    return Transferred(filesize, sha256, start)


async def download(
    canister: MethodCalls,
    name: str,
    target: Path,
    *,
    kind: TransferKind = "file",
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    progress: Progress | None = None,
    retries: Retries | None = None,
) -> Transferred:
    """Fetch a file of the canister into a local one, which is replaced when all of it is there and checked.

    Raises TransferError, ClientError, OSError.
    """
    retries = retries or Retries()
    expected = await retries.run(partial(_details, canister, name, kind), is_first=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        n_resumed = part.stat().st_size if part.exists() else 0
        filesize, sha256 = await _complete(canister, name, kind, part, chunk_bytes, progress, retries)
        if n_resumed and expected is not None and sha256 != expected.filesha256:
            part.unlink()  # what was there was part of another file: once more, from the beginning
            n_resumed = 0
            filesize, sha256 = await _complete(canister, name, kind, part, chunk_bytes, progress, retries)
        if expected is not None and sha256 != expected.filesha256:
            part.unlink()
            raise TransferError(
                f"'{name}' arrived with the SHA-256 {sha256} instead of {expected.filesha256}: "
                "it changed while it was downloaded. Download it again."
            )
        os.replace(part, target)
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
    return Transferred(filesize, sha256, n_resumed)


async def _complete(
    canister: MethodCalls,
    name: str,
    kind: TransferKind,
    part: Path,
    chunk_bytes: int,
    progress: Progress | None,
    retries: Retries,
) -> tuple[int, str]:
    """Fetch what is missing in the partial file, and sync it. Returns size and hash."""
    with part.open("a+b") as file:
        filesize = await _fetch(canister, name, kind, file, chunk_bytes, progress, retries)
        file.flush()
        os.fsync(file.fileno())
        return filesize, await asyncio.to_thread(sha256_of_start, file, filesize)


async def _fetch(
    canister: MethodCalls,
    name: str,
    kind: TransferKind,
    file: BinaryIO,
    chunk_bytes: int,
    progress: Progress | None,
    retries: Retries,
) -> int:
    """Append what is missing to a file opened for appending. Returns the size of the whole."""
    size: int | None = None
    while True:
        offset = file.seek(0, os.SEEK_END)
        piece = await retries.run(partial(_receive, canister, name, kind, chunk_bytes, offset))
        if piece.filesize < offset or size not in (None, piece.filesize):
            if size is not None:
                raise TransferError(f"'{name}' changed its size while it was downloaded. Download it again.")
            file.truncate(0)  # what is here was part of another, longer file
            continue
        size = piece.filesize
        file.write(piece.chunk)
        offset += len(piece.chunk)
        if progress is not None:
            progress(offset, size)
        if offset == size:
            return size
        if not piece.chunk:
            raise TransferError(f"The canister sent nothing at {offset} of {size} bytes of '{name}'.")


async def _n_confirmed(details: FileDetailsRecord | None, file: BinaryIO, filesize: int) -> int:
    """How many bytes of the local file the canister has already, from its beginning. details: of what it has."""
    if details is None or details.filesize > filesize:
        return 0
    prefix = await asyncio.to_thread(sha256_of_start, file, details.filesize)
    return details.filesize if prefix == details.filesha256 else 0


async def _details(canister: MethodCalls, name: str, kind: TransferKind) -> FileDetailsRecord | None:
    """Size and hash as the canister keeps them; None for what was not uploaded."""
    arg: Record
    if kind == "promptcache":
        method, arg = "uploaded_prompt_cache_details", PromptCacheDetailsInputRecord(promptcache=name)
    else:
        method, arg = "uploaded_file_details", FileDetailsInputRecord(filename=name)
    try:
        details: FileDetailsRecord = (await canister.call(method, arg, timeout_seconds=CHUNK_SECONDS)).value
    except Refused as error:
        if _may_pass(error):
            raise
        return None  # if it is the caller who may not know, the first chunk will say so
    return details


async def _send(canister: MethodCalls, name: str, kind: TransferKind, chunk: bytes, offset: int) -> FileUploadRecord:
    arg: Record
    if kind == "promptcache":
        method = "upload_prompt_cache_chunk"
        arg = UploadPromptCacheInputRecord(promptcache=name, chunk=chunk, chunksize=len(chunk), offset=offset)
    else:
        method = "file_upload_chunk"
        arg = FileUploadInputRecord(filename=name, chunk=chunk, chunksize=len(chunk), offset=offset)
    confirmed: FileUploadRecord = (await canister.call(method, arg, timeout_seconds=CHUNK_SECONDS)).value
    return confirmed


async def _receive(
    canister: MethodCalls, name: str, kind: TransferKind, chunk_bytes: int, offset: int
) -> FileDownloadRecord:
    arg: Record
    if kind == "promptcache":
        method = "download_prompt_cache_chunk"
        arg = DownloadPromptCacheInputRecord(promptcache=name, chunksize=chunk_bytes, offset=offset)
    else:
        method = "file_download_chunk"
        arg = FileDownloadInputRecord(filename=name, chunksize=chunk_bytes, offset=offset)
    piece: FileDownloadRecord = (await canister.call(method, arg, timeout_seconds=CHUNK_SECONDS)).value
    return piece
