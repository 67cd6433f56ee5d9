"""`canister serve -m FILE`: put a model file into the first canister and load it, as its controller would by hand.

It goes through dispatch like any other message. Until it is done, or if it failed, `/readyz` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from canister import dispatch
from canister.api.records import FileDetailsInputRecord, FileDetailsRecord, FilesystemRemoveInputRecord, InputRecord
from canister.errors import BadRequest, CanisterError, NotFound, Trap
from canister.model_file.parts import local_parts
from canister.runtime.canister import Canister
from canister.runtime.host import Host
from canister.system.hashing import sha256_of_file
from canister.telemetry.logs import get_logger

BLOCK_BYTES = 1024 * 1024

log = get_logger(__name__)


def check(file: Path) -> None:
    """Raise NotFound or BadRequest, before anything is started, unless the model is there with all its parts."""
    if not file.is_file():
        raise NotFound(f"--model {file}: there is no such file")
    try:
        local_parts(file)
    except BadRequest as error:
        raise BadRequest(f"--model {file}: {error}") from error


def begin(host: Host, file: Path, canister: Canister | None = None, *, keeps_other: bool = False) -> asyncio.Task[None]:
    """Make sure that a canister has the file as `models/<name>`, and loaded. Steps that are done are not repeated.

    canister: the first one, if none is given. keeps_other: not in place of another model that it has loaded.
    """
    target = f"models/{file.name}"
    chosen = canister or host.default
    host.pending[chosen.name] = f"{target} is being put into it and loaded"
    return asyncio.create_task(_preload(host, chosen, file, target, keeps_other), name="preload")


async def _preload(host: Host, canister: Canister, file: Path, target: str, keeps_other: bool) -> None:
    try:
        await canister.model.loaded()
        if keeps_other and canister.model.engine is not None:
            return
        await put(host, canister, file, target)
    except (CanisterError, Trap, OSError) as error:
        canister.model.load_error = f"{file} could not be loaded: {error}"
        log.error("the model could not be put in place", file=str(file), reason=str(error))
    finally:
        del host.pending[canister.name]


async def put(host: Host, canister: Canister, file: Path, target: str) -> None:
    """The file with all its parts, and loaded. Raises CanisterError, Trap, OSError."""
    for part in local_parts(file):
        name = f"models/{part.name}"
        if not await _is_there(host, canister, part, name):
            _check(await dispatch.store_stream(canister, host.identity.principal, name, 0, _blocks(part)))
    if not canister.model.is_loaded_from(target):
        await canister.model.check_crashes(target)
        await _call(host, canister, "load_model", InputRecord(args=["--model", target]))


async def remove(host: Host, canister: Canister, target: str) -> None:
    """A file that was put there, if it is there."""
    with suppress(CanisterError, Trap):
        await _call(host, canister, "filesystem_remove", FilesystemRemoveInputRecord(filename=target))


async def _is_there(host: Host, canister: Canister, file: Path, target: str) -> bool:
    try:
        details = await _call(host, canister, "uploaded_file_details", FileDetailsInputRecord(filename=target))
    except NotFound:
        return False
    assert isinstance(details, FileDetailsRecord)
    return details.filesha256 == await asyncio.to_thread(sha256_of_file, file)


async def _call(host: Host, canister: Canister, name: str, argument: object) -> object:
    method = dispatch.find_method(canister, name)
    return _check(await dispatch.execute(canister, method, host.identity.principal, lambda: argument))


def _check(reply: dispatch.Reply) -> object:
    if reply.error is not None:
        raise reply.error
    return reply.value


async def _blocks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while block := await asyncio.to_thread(opened.read, BLOCK_BYTES):
            yield block
