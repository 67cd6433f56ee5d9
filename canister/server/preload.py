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
from canister.flags.parse import parse
from canister.model_file.parts import local_parts
from canister.runtime.canister import Canister
from canister.runtime.host import Host
from canister.system.hashing import sha256_of_file
from canister.telemetry.logs import get_logger

BLOCK_BYTES = 1024 * 1024

log = get_logger(__name__)


def check(file: Path, draft: Path | None = None) -> None:
    """Raise NotFound or BadRequest, before anything is started, unless the model is there with all its parts, and the
    one that is to guess for it.
    """
    for flag, each in (("--model", file), ("--model-draft", draft)):
        if each is None:
            continue
        if not each.is_file():
            raise NotFound(f"{flag} {each}: there is no such file")
        try:
            local_parts(each)
        except BadRequest as error:
            raise BadRequest(f"{flag} {each}: {error}") from error


def begin(
    host: Host,
    file: Path,
    canister: Canister | None = None,
    *,
    keeps_other: bool = False,
    draft: Path | None = None,
) -> asyncio.Task[None]:
    """Make sure that a canister has the file as `models/<name>`, and loaded. Steps that are done are not repeated.

    canister: the first one, if none is given. keeps_other: not in place of another model that it has loaded. draft: the
    model that guesses for it.
    """
    target = f"models/{file.name}"
    chosen = canister or host.default
    host.pending[chosen.name] = f"{target} is being put into it and loaded"
    return asyncio.create_task(_preload(host, chosen, file, target, keeps_other, draft), name="preload")


async def _preload(
    host: Host, canister: Canister, file: Path, target: str, keeps_other: bool, draft: Path | None
) -> None:
    try:
        await canister.model.loaded()
        if keeps_other and canister.model.engine is not None:
            return
        await put(host, canister, file, target, draft)
    except (CanisterError, Trap, OSError) as error:
        canister.model.load_error = f"{file} could not be loaded: {error}"
        log.error("the model could not be put in place", file=str(file), reason=str(error))
    finally:
        del host.pending[canister.name]


async def put(host: Host, canister: Canister, file: Path, target: str, draft: Path | None = None) -> None:
    """The file with all its parts, and loaded, with a draft model if one is given. Raises CanisterError, Trap,
    OSError.
    """
    for part in (*local_parts(file), *(() if draft is None else local_parts(draft))):
        name = f"models/{part.name}"
        if not await _is_there(host, canister, part, name):
            _check(await dispatch.store_stream(canister, host.identity.principal, name, 0, _blocks(part)))
    flags = [] if draft is None else ["--model-draft", f"models/{draft.name}"]
    if not (canister.model.is_loaded_from(target) and _is_drafted_for(canister, flags)):
        await canister.model.check_crashes(target)
        await _call(host, canister, "load_model", InputRecord(args=["--model", target, *flags]))


def _is_drafted_for(canister: Canister, flags: list[str]) -> bool:
    """Was the loaded model loaded with this draft model, if there are flags for one?"""
    return not flags or parse(canister.state.model_args or ()).draft.model == flags[1]


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
