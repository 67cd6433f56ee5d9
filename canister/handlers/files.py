"""Files of stable memory: upload, download, list, remove; and the log files that runs write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from canister.api.records import (
    DirContentInputRecord,
    FileDetailsInputRecord,
    FileDetailsRecord,
    FileDownloadInputRecord,
    FileDownloadRecord,
    FileEntry,
    FilesystemFileSizeInputRecord,
    FilesystemFileSizeRecord,
    FilesystemRemoveInputRecord,
    FilesystemRemoveRecord,
    FilesystemTimestampInputRecord,
    FilesystemTimestampRecord,
    FileUploadInputRecord,
    FileUploadRecord,
    InputRecord,
    RunOutputRecord,
    StatusCodeRecord,
)
from canister.errors import BadRequest, CanisterError, Conflict, NotFound, TooLarge
from canister.handlers.arguments import parse_args
from canister.metering.cost_model import upload_cost
from canister.runtime.file_streams import FileStream
from canister.store.cache_paths import SIDECAR

if TYPE_CHECKING:
    from canister.runtime.call import Call

MAX_CHUNK_BYTES = 2_097_152


# -- upload


async def file_upload_chunk(call: Call, arg: FileUploadInputRecord) -> FileUploadRecord:
    return await upload_chunk(call, arg.filename, arg.chunk, arg.chunksize, arg.offset)


async def upload_chunk(call: Call, path: str, chunk: bytes, chunksize: int, offset: int) -> FileUploadRecord:
    """`store_block` under the interface's limit on the size of a chunk."""
    # The original's script always sends the nominal size, so the bytes count. The limit applies to both.
    size = max(chunksize, len(chunk))
    if size > MAX_CHUNK_BYTES:
        raise TooLarge(f"file_upload_chunk_: chunksize {size} exceeds limit {MAX_CHUNK_BYTES}")
    return await store_block(call, path, chunk, offset)


async def store_block(call: Call, path: str, block: bytes, offset: int) -> FileUploadRecord:
    """Add a block to a file, which must end at `offset`. The answer has size and SHA-256 of all so far."""
    canister = call.canister
    call.cost(upload_cost(len(block)))
    await call.lock(canister.clean(path))
    known = canister.stable.stat(path)
    if known is not None and known.kind == "directory":
        raise Conflict(f"file_upload_chunk_: {path} is a folder; choose another filename")
    if offset == 0:
        size, last_offset = len(block), 0
        call.tx.write_file(path, block)
        sha256 = await asyncio.to_thread(canister.uploads.start, call.tx, path, block)
    else:
        n_before = known.size if known is not None else 0
        last = canister.stable.upload(path)
        if offset != n_before and last is not None and offset == last.last_offset:
            return FileUploadRecord(filename=path, filesize=last.size, filesha256=last.sha256)
        if offset != n_before:
            where = "leaves a hole after" if offset > n_before else "lies before"
            raise BadRequest(
                f"file_upload_chunk_: offset {offset} {where} the end of {path}, which has {n_before} bytes: "
                f"go on at offset {n_before}, or start anew at 0"
            )
        size = n_before + len(block)
        # An empty chunk cannot be a retry, since the next chunk with bytes has the same offset.
        last_offset = offset if block or last is None else last.last_offset
        call.tx.append_file(path, block)
        sha256 = await asyncio.to_thread(canister.uploads.extend, call.tx, path, block)
    call.tx.set_upload(path, size, sha256, last_offset)
    remove_sidecar(call, path)
    canister.forget_when_committed(call.work, path)
    return FileUploadRecord(filename=path, filesize=size, filesha256=sha256)


def remove_sidecar(call: Call, path: str) -> None:
    """Remove the sidecar of a prompt cache, if there is one, since it vouches for bytes that are no longer there."""
    if call.canister.stable.stat(path + SIDECAR) is not None:
        call.tx.remove(path + SIDECAR)


async def know_hash(call: Call, path: str) -> None:
    """Hash the stored part of a file, unless its hash is known, so that an upload can continue there."""
    if call.canister.stable.stat(path) is not None:
        await call.canister.in_file_thread(call.canister.uploads.digest, path)


async def uploaded_file_details(call: Call, arg: FileDetailsInputRecord) -> FileDetailsRecord:
    return upload_details(call, arg.filename)


def upload_details(call: Call, path: str) -> FileDetailsRecord:
    upload = call.canister.stable.upload(path)
    if upload is None:
        raise NotFound(f"uploaded_file_details_: Metadata for this file are not found: {path}")
    return FileDetailsRecord(filename=path, filesize=upload.size, filesha256=upload.sha256)


# -- download


async def file_download_chunk(call: Call, arg: FileDownloadInputRecord) -> FileDownloadRecord:
    return download_chunk(call, arg.filename, arg.chunksize, arg.offset)


def download_chunk(call: Call, path: str, chunksize: int, offset: int) -> FileDownloadRecord:
    if chunksize > MAX_CHUNK_BYTES:
        raise TooLarge(f"file_download_chunk_: chunksize {chunksize} exceeds limit {MAX_CHUNK_BYTES}")
    known = call.canister.stable.stat(path)
    if known is None or known.kind != "file":
        raise NotFound(f"file_download_chunk_: ERROR: failed to open ifstream for file {path}")
    chunk = call.canister.stable.read(path, offset, chunksize) if offset < known.size else b""
    return FileDownloadRecord(
        chunk=chunk,
        chunksize=len(chunk),
        filesize=known.size,
        offset=offset,
        done=offset + chunksize >= known.size,
    )


def open_stream(call: Call, path: str, closed: Callable[[], None]) -> FileStream:
    """Opened here and not in a thread, since a waiting caller may go away and the file would stay open."""
    stable = call.canister.stable
    known = stable.stat(path)
    if known is None or known.kind != "file":
        raise NotFound(f"file_download_chunk_: ERROR: failed to open ifstream for file {path}")
    opened = stable.open_file(path)
    upload = stable.upload(path)
    is_known = upload is not None and upload.size == opened.info.size and stable.stat(path) == opened.info
    return FileStream(call.canister, opened, upload.sha256 if upload is not None and is_known else None, closed)


# -- the file system


async def filesystem_file_size(call: Call, arg: FilesystemFileSizeInputRecord) -> FilesystemFileSizeRecord:
    known = call.canister.stable.stat(arg.filename)
    if known is None:
        raise NotFound(f"File does not exist: {arg.filename}")
    return FilesystemFileSizeRecord(
        exists=True,
        filename=arg.filename,
        filesize=known.size,
        msg=f"File exists: {arg.filename}\nFile size: {known.size} bytes\n",
    )


async def get_creation_timestamp_ns(call: Call, arg: FilesystemTimestampInputRecord) -> FilesystemTimestampRecord:
    known = call.canister.stable.stat(arg.filename)
    if known is None:
        raise NotFound(f"File does not exist: {arg.filename}")
    age_seconds = max(0, call.now_ns - known.created_ns) // 1_000_000_000
    return FilesystemTimestampRecord(
        exists=True,
        filename=arg.filename,
        timestamp_ns=known.created_ns,
        age_seconds=age_seconds,
        msg=(
            f"File exists: {arg.filename}\n"
            f"File creation timestamp_ns: {known.created_ns} ns\n"
            f"File creation age: {age_seconds} seconds\n"
        ),
    )


async def filesystem_remove(call: Call, arg: FilesystemRemoveInputRecord) -> FilesystemRemoveRecord:
    await call.lock(call.canister.clean(arg.filename))
    if call.canister.stable.stat(arg.filename) is None:
        return FilesystemRemoveRecord(
            exists=False,
            removed=False,
            filename=arg.filename,
            msg=f"Path does not exist: {arg.filename}\n",
        )
    try:
        call.tx.remove(arg.filename)
    except CanisterError as error:
        raise Conflict(f"filesystem_remove_: Failed to remove: {arg.filename}: {error}") from error
    call.canister.forget_when_committed(call.work, arg.filename)
    return FilesystemRemoveRecord(
        exists=True,
        removed=True,
        filename=arg.filename,
        msg=f"Path removed successfully: {arg.filename}",
    )


async def recursive_dir_content_query(call: Call, arg: DirContentInputRecord) -> list[FileEntry]:
    return await asyncio.to_thread(_dir_content, call, arg)  # there may be hundreds of thousands of files


async def recursive_dir_content_update(call: Call, arg: DirContentInputRecord) -> list[FileEntry]:
    return await asyncio.to_thread(_dir_content, call, arg)


def _dir_content(call: Call, arg: DirContentInputRecord) -> list[FileEntry]:
    found = call.canister.stable.walk(arg.dir, arg.max_entries)
    if found is None:
        raise NotFound(f"recursive_dir_content_: Directory does not exist: {arg.dir}\n")
    folder = call.canister.clean_folder(arg.dir)
    given = arg.dir.rstrip("/") or arg.dir
    return [
        FileEntry(filename=given + entry.path[len(folder) :] if folder else entry.path, filetype=entry.kind)
        for entry in found
    ]


# -- logs


async def remove_log_file(call: Call, arg: InputRecord) -> RunOutputRecord:
    args = parse_args(arg)
    if not args.log_file:
        raise BadRequest("ERROR: no --log-file given: name the log file to remove with --log-file NAME")
    await call.lock(call.canister.clean(args.log_file))
    known = call.canister.stable.stat(args.log_file)
    if known is not None:
        if known.kind == "directory":
            raise Conflict(f"{args.log_file} is a folder, not a log file")
        call.tx.remove(args.log_file)
        call.canister.forget_when_committed(call.work, args.log_file)
    return RunOutputRecord(status_code=200, output=f"Successfully removed log file: {args.log_file}")


async def log_pause(call: Call) -> StatusCodeRecord:
    call.change(log_on=False)
    return StatusCodeRecord()


async def log_resume(call: Call) -> StatusCodeRecord:
    call.change(log_on=True)
    return StatusCodeRecord()
