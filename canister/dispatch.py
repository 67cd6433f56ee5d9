"""One message, from the door to the commit. Every transport ends here.

    guard → arguments → handler → commit everything, or nothing → reply | reject

Only this module commits. A CanisterError is a reply (`Err`), a Trap a reject; both leave no trace. Anything else that
escapes a handler is a bug: rolled back, logged with its stack, rejected. A call that is cancelled before its commit
began leaves no trace either; one whose commit has begun is finished first.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.call import Call
from canister.errors import CanisterError, CanisterTrapped, MethodNotFound, Trap
from canister.interface import BY_NAME, Method
from canister.methods import files
from canister.records import ApiError, FileUploadRecord, RunOutputRecord
from canister.telemetry import get_logger

if TYPE_CHECKING:
    from canister.canister import Canister
    from canister.host import Host
    from canister.methods.files import FileStream

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a method answered. error: set when `value` stands inside `Err`; its http_status is for REST."""

    value: object
    error: CanisterError | None = None


def find_method(canister: Canister, name: str) -> Method:
    """The row of the interface table; MethodNotFound names the nearest."""
    method = BY_NAME.get(name)
    if method is None:
        near = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise MethodNotFound(f"Error from Canister {canister.id}: Canister has no update method '{name[:100]}'.{hint}")
    return method


async def execute(canister: Canister, method: Method, caller: str, decode: Callable[[], object]) -> Reply:
    """Run one method.

    decode: makes the argument from what the door received; called after the guard, and only if the method takes one.
    Raises Trap for a reject.
    """

    async def handle(call: Call) -> object:
        method.guard(call)
        if method.arg is None:
            return await method.handler(call)
        return await method.handler(call, decode())

    return await _run(canister, method.name, caller, handle, is_update=method.mode == "update", err=method.err)


async def store_stream(canister: Canister, caller: str, path: str, offset: int, blocks: AsyncIterator[bytes]) -> Reply:
    """Upload a file of any size: as `file_upload_chunk`, block by block; each block is committed on its own.

    An upload that breaks off can go on at the size that was confirmed last.
    """
    guard = BY_NAME["file_upload_chunk"].guard

    async def check(call: Call) -> None:
        guard(call)

    # A caller who may not upload is told before anything of the body is read.
    reply = await _run(canister, "file_upload_chunk", caller, check, is_update=False, err=ApiError)
    if reply.error is not None:
        return reply
    position = offset
    async for block in files.regrouped(blocks):

        async def handle(call: Call, block: bytes = block, position: int = position) -> FileUploadRecord:
            guard(call)
            return await files.store_block(call, path, block, position)

        reply = await _run(canister, "file_upload_chunk", caller, handle, is_update=True, err=ApiError)
        if reply.error is not None:
            return reply
        position += len(block)
    return reply


async def read_stream(canister: Canister, caller: str, path: str) -> FileStream | Reply:
    """Open a file of stable memory for reading: as `file_download_chunk`, without its limit on size."""

    async def handle(call: Call) -> FileStream:
        BY_NAME["file_download_chunk"].guard(call)
        return files.open_stream(call, path)

    reply = await _run(canister, "file_download_chunk", caller, handle, is_update=False, err=ApiError)
    return reply if reply.error is not None else reply.value  # type: ignore[return-value]


def inspect(host: Host) -> list[dict[str, object]]:
    """What anybody may know of the canisters of a server."""
    return [canister.summary() for canister in host.canisters]


async def _run(
    canister: Canister,
    name: str,
    caller: str,
    handle: Callable[[Call], Awaitable[object]],
    *,
    is_update: bool,
    err: type | None,
) -> Reply:
    call = Call(canister, name, caller, is_update=is_update)
    try:
        with canister.running(call):
            try:
                value = await handle(call)
            except BaseException:
                await _finish(call.rollback())
                raise
            if is_update:
                await _finish(_commit(call))
            else:
                await _finish(call.rollback())
            return Reply(value)
    except CanisterError as error:
        if err is RunOutputRecord:
            return Reply(RunOutputRecord(status_code=error.record_status, error=str(error)), error)
        if err is None:
            raise CanisterTrapped(f"Error from Canister {canister.id}: {error}") from error
        return Reply(ApiError(Other=str(error)), error)
    except (Trap, asyncio.CancelledError):
        raise
    except Exception as error:
        log.exception("method failed", canister=canister.name, method=name)
        raise CanisterTrapped(
            f"Error from Canister {canister.id}: Canister trapped: internal error in {name} "
            f"({type(error).__name__}); the call left no trace, the server's log has the details."
        ) from error
    finally:
        await _finish(call.release())


async def _commit(call: Call) -> None:
    try:
        await call.commit()
    except BaseException:
        await call.rollback()
        raise


async def _finish(work: Awaitable[None]) -> None:
    """Await something that must not be left half done, also when this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:
            break
    task.result()
    if cancelled is not None:
        raise cancelled
