"""One message, from the door to the commit. Every transport ends here.

    place → guard → arguments → handler → instruction limit → commit everything, or nothing → reply | reject

Only this module commits. A CanisterError is a reply (`Err`), a Trap a reject; both leave no trace but what they cost.
Anything else that escapes a handler is a bug: rolled back, logged with its stack, rejected. A call that is cancelled
before its commit began, or whose time was over by then, leaves no trace at all; one whose commit has begun is finished
first.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from canister import telemetry
from canister.access import admin_query
from canister.call import Call
from canister.errors import (
    CallTimeout,
    CanisterError,
    CanisterStopping,
    CanisterTrapped,
    InstructionLimit,
    MethodNotFound,
    Trap,
)
from canister.fees import Charge
from canister.ingress import Answer, Known, Message
from canister.interface import BY_NAME, Guard, Method, Mode
from canister.methods import files
from canister.records import ApiError, FileUploadRecord, Record, RunOutputRecord
from canister.telemetry import get_logger

if TYPE_CHECKING:
    from canister.admission import Place
    from canister.canister import Canister
    from canister.host import Host
    from canister.methods.files import FileStream
    from canister.store.transaction import Transaction

log = get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a method answered. error: set when `value` stands inside `Err`; its http_status is for REST.

    charge: what the call cost. A Trap that is raised instead of a reply carries it too.
    """

    value: object
    error: CanisterError | None = None
    charge: Charge | None = None


def find_method(canister: Canister, name: str, mode: Mode = "update") -> Method:
    """The row of the interface table; MethodNotFound names the nearest. Queries can be called as updates as well."""
    method = BY_NAME.get(name)
    if method is None or (mode == "query" and method.mode != "query"):
        near = [] if name in BY_NAME else difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise MethodNotFound(f"Error from Canister {canister.id}: Canister has no {mode} method '{name[:100]}'.{hint}")
    return method


Recorder = Callable[["Transaction", "Reply | Trap"], None]
"""Adds what is answered to the transaction that commits the call."""


async def execute(
    canister: Canister,
    method: Method,
    caller: str,
    decode: Callable[[], object],
    record: Recorder | None = None,
) -> Reply:
    """Run one method, when it is its caller's turn.

    decode: makes the argument from what the door received; called after the guard, and only if the method takes one.
    record: for updates; not called when nothing is committed. Raises Trap for a reject.
    """
    async with _turn(canister, method, _place(canister, method.guard, caller)) as due:
        return await _execute(canister, method, caller, decode, record, due)


async def _execute(
    canister: Canister,
    method: Method,
    caller: str,
    decode: Callable[[], object],
    record: Recorder | None,
    due: float | None,
) -> Reply:
    async def handle(call: Call) -> object:
        _admit(call, method.guard, runs_stopped=method.runs_stopped)
        if method.arg is None:
            value = await method.handler(call)
        else:
            arg = decode()
            call.request_bytes = argument_bytes(arg)
            value = await method.handler(call, arg)
        if record is not None and call.is_update:
            record(call.tx, Reply(value))
        return value

    is_update = method.mode == "update"
    return await _run(
        canister, method.name, caller, handle, is_update=is_update, err=method.err, record=record, due=due
    )


def submit(
    canister: Canister,
    method: Method,
    message: Message,
    decode: Callable[[], object],
    encode: Callable[[Reply], bytes],
) -> asyncio.Future[Answer]:
    """Run one method for a message that may come more than once: the second time, its answer is given again.

    The call goes on when nobody waits for it. Raises CanisterStopping, which the future may have too,
    CanisterUnavailable, and for a new message CallerBusy or CanisterBusy.
    """
    canister.check_available()
    if not method.runs_stopped:
        canister.check_started()

    places: list[Place | _NoPlace] = []

    def begin() -> Callable[[], Awaitable[Answer]]:
        place = _place(canister, method.guard, message.caller, counted_as=method.name)
        places.append(place)
        return functools.partial(run, place)

    async def run(place: Place | _NoPlace) -> Answer:
        committed: list[Answer] = []

        def record(transaction: Transaction, outcome: Reply | Trap) -> None:
            answer = _answer(outcome, encode)
            canister.ingress.record(transaction, message, answer)
            transaction.on_commit(lambda: committed.append(answer))

        outcome: Reply | Trap
        with telemetry.counted(canister.name, method.name) as counted:
            try:
                async with _turn(canister, method, place) as due:
                    outcome = await _execute(canister, method, message.caller, decode, record, due)
                counted.is_ok = outcome.error is None
            except CanisterStopping:
                raise
            except Trap as trap:
                outcome = trap
        if not committed:
            committed.append(_answer(outcome, encode))
            await canister.ingress.record_alone(message, committed[0])
        return committed[0]

    future = canister.ingress.submit(message, begin)
    for place in places:  # also when it was cancelled before it began
        future.add_done_callback(lambda _, place=place: place.leave())  # type: ignore[misc]
    return future


def find_message(canister: Canister, id: bytes) -> Known | None:
    """What is known of a message that came to `submit`; nothing while the canister is not available."""
    return None if canister.fault is not None else canister.ingress.find(id)


def _answer(outcome: Reply | Trap, encode: Callable[[Reply], bytes]) -> Answer:
    return Answer.rejected(outcome) if isinstance(outcome, Trap) else Answer(encode(outcome))


async def store_stream(canister: Canister, caller: str, path: str, offset: int, blocks: AsyncIterator[bytes]) -> Reply:
    """Upload a file of any size: as `file_upload_chunk`, block by block; each block is committed on its own.

    An upload that breaks off can go on at the size that was confirmed last.
    """
    guard = BY_NAME["file_upload_chunk"].guard
    async with _stream_place(canister, guard, caller):
        return await _store_stream(canister, guard, caller, path, offset, blocks)


async def _store_stream(
    canister: Canister, guard: Guard, caller: str, path: str, offset: int, blocks: AsyncIterator[bytes]
) -> Reply:
    async def check(call: Call) -> None:
        guard(call)
        if offset:
            resuming.append(asyncio.create_task(files.know_hash(call, path)))

    resuming: list[asyncio.Task[None]] = []
    # A caller who may not upload is told before anything of the body is read.
    reply = await _run(canister, "file_upload_chunk", caller, check, is_update=False, err=ApiError)
    if reply.error is not None:
        return reply
    try:
        async with aclosing(files.ahead(files.regrouped(blocks))) as received:  # type: ignore[type-var]  # a generator
            return await _store_blocks(canister, guard, caller, path, offset, received, resuming)
    finally:
        for task in resuming:
            task.cancel()
        await asyncio.gather(*resuming, return_exceptions=True)


async def _store_blocks(
    canister: Canister,
    guard: Guard,
    caller: str,
    path: str,
    position: int,
    blocks: AsyncIterator[bytes],
    resuming: Iterable[asyncio.Task[None]],
) -> Reply:
    reply = Reply(None)
    async for block in blocks:
        # Meanwhile more is received. If it fails, the block will, and tell why.
        await asyncio.gather(*resuming, return_exceptions=True)

        async def handle(call: Call, block: bytes = block, position: int = position) -> FileUploadRecord:
            _admit(call, guard)
            call.request_bytes = len(block)
            return await files.store_block(call, path, block, position)

        async with canister.storing:
            # A block is as large as suits the disk, so the limit of a message does not apply to it.
            reply = await _run(
                canister, "file_upload_chunk", caller, handle, is_update=True, err=ApiError, is_limited=False
            )
        if reply.error is not None:
            return reply
        position += len(block)
    return reply


async def read_stream(canister: Canister, caller: str, path: str) -> FileStream | Reply:
    """Open a file of stable memory for reading: as `file_download_chunk`, without its limit on size.

    The stream is to be closed, whether it was read or not.
    """
    guard = BY_NAME["file_download_chunk"].guard

    async def handle(call: Call) -> FileStream:
        guard(call)
        return files.open_stream(call, path, place.leave)

    place = _stream_place(canister, guard, caller)
    try:
        reply = await _run(canister, "file_download_chunk", caller, handle, is_update=False, err=ApiError)
    except BaseException:
        place.leave()
        raise
    if reply.error is None:
        return reply.value  # type: ignore[return-value]
    place.leave()
    return reply


def inspect(host: Host) -> list[dict[str, object]]:
    """What anybody may know of the canisters of a server."""
    return [canister.summary() for canister in host.canisters]


def observe(host: Host) -> dict[str, dict[str, float]]:
    """What the metrics say of each canister as it is now; no callers, no names of files."""
    return {canister.name: canister.observed() for canister in host.canisters}


async def inspect_engine(canister: Canister, caller: str) -> Reply:
    """How a canister's model is run, for whoever may look at what is not its own. Nothing is charged for it."""

    async def handle(call: Call) -> dict[str, object]:
        admin_query(call)
        return canister.engine_report()

    return await _run(canister, "engine", caller, handle, is_update=False, err=ApiError, is_limited=False)


def argument_bytes(value: object) -> int:
    """Size of an argument, by its contents: the same through every door, whatever form it came in."""
    if isinstance(value, str):
        return len(value.encode(errors="surrogatepass"))
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Record):
        return sum(argument_bytes(getattr(value, name)) for name in type(value).model_fields)
    if isinstance(value, list):
        return sum(map(argument_bytes, value))
    return 0 if value is None else 8


def _place(canister: Canister, guard: Guard, caller: str, counted_as: str | None = None) -> Place | _NoPlace:
    """The caller's turn. A timer needs none, nor does who is about to be refused: that takes no time.

    counted_as: method of a request that would not be counted otherwise, should it be refused.
    """
    calls = canister.admission
    if not calls.has_room(caller) and (caller == canister.id or not _lets_in(canister, guard, caller)):
        return _NoPlace()
    with telemetry.refusals(canister.name, counted_as):
        return calls.enter(caller)


def _stream_place(canister: Canister, guard: Guard, caller: str) -> Place | _NoPlace:
    if not _lets_in(canister, guard, caller):
        return _NoPlace()
    with telemetry.refusals(canister.name):
        return canister.streams.enter(caller)


def _lets_in(canister: Canister, guard: Guard, caller: str) -> bool:
    try:
        guard(Call(canister, "", caller, is_update=False))
    except (CanisterError, Trap):
        return False
    return True


class _NoPlace(AbstractAsyncContextManager[None]):
    """For work that takes nobody's turn."""

    async def __aexit__(self, *_: object) -> None: ...

    def leave(self) -> None: ...


def _admit(call: Call, guard: Guard, *, runs_stopped: bool = False) -> None:
    if not runs_stopped:
        call.canister.check_started()
    guard(call)
    call.is_admitted = True
    call.check_balance()


async def _run(
    canister: Canister,
    name: str,
    caller: str,
    handle: Callable[[Call], Awaitable[object]],
    *,
    is_update: bool,
    err: type | None,
    is_limited: bool = True,
    record: Recorder | None = None,
    due: float | None = None,
) -> Reply:
    """due: when its time is over, of the event loop's clock; None: it begins now."""
    call = Call(canister, name, caller, is_update=is_update)
    try:
        with canister.running(call):
            try:
                value = await _in_time(canister, name, due or _due(canister), handle(call))
                if is_limited:
                    call.check_limit()
            except BaseException as error:
                await _rollback(call)
                if isinstance(error, CanisterError | InstructionLimit):
                    await _finish(_charge_failed(call, error, err, record))
                raise
            charge = call.charge()
            if is_update:
                await _finish(_commit(call, charge))
            else:
                await _rollback(call)
            telemetry.count_cost(canister.name, name, charge.instructions, charge.cycles)
            if isinstance(value, RunOutputRecord) and value.n_prompt_tokens is not None:
                telemetry.count_tokens(
                    canister.name,
                    prompt=value.n_prompt_tokens_decoded or 0,
                    generated=value.n_tokens_generated or 0,
                    cached=value.n_prompt_tokens_cached or 0,
                )
            return Reply(value, charge=charge)
    except CanisterError as error:
        outcome = _outcome(call, error, err)
        if isinstance(outcome, Trap):
            raise outcome from error
        return outcome
    except Trap as trap:
        trap.charge = call.charge() if call.is_admitted else None
        raise
    except asyncio.CancelledError:
        raise
    except Exception as error:
        log.exception("method failed", canister=canister.name, method=name)
        raise CanisterTrapped(
            f"Error from Canister {canister.id}: Canister trapped: internal error in {name} "
            f"({type(error).__name__}); the call left no trace, the server's log has the details."
        ) from error
    finally:
        call.release()


async def _rollback(call: Call) -> None:
    if call.has_transaction:
        await _finish(call.rollback())
    else:
        call.forget_changes()


def _due(canister: Canister) -> float | None:
    """When the time of a call that begins now is over, by the event loop's clock; None: never."""
    seconds = canister.settings.call_timeout
    return None if seconds is None else asyncio.get_running_loop().time() + seconds


async def _in_time(canister: Canister, method: str, due: float | None, work: Awaitable[T]) -> T:
    """Raises CallTimeout when the time of a call is over before its commit begins; `work` has been cancelled then."""
    try:
        async with asyncio.timeout_at(due) as deadline:
            return await work
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise CallTimeout(canister.id, method, canister.settings.call_timeout or 0.0) from error


@asynccontextmanager
async def _turn(canister: Canister, method: Method, place: Place | _NoPlace) -> AsyncIterator[float | None]:
    """Have the place once it is the caller's turn; tells when the time of the call is over. Raises CallTimeout."""
    due = _due(canister)
    async with AsyncExitStack() as held:
        await _in_time(canister, method.name, due, held.enter_async_context(place))
        yield due


async def _commit(call: Call, charge: Charge) -> None:
    try:
        await call.commit(charge)
    except BaseException:
        await call.rollback()
        raise


async def _charge_failed(call: Call, error: CanisterError | Trap, err: type | None, record: Recorder | None) -> None:
    """An update that failed is paid and logged as well, unless its caller was not let in."""
    if call.is_update and call.is_admitted:
        charge = call.charge()
        outcome = _outcome(call, error, err)

        def note(transaction: Transaction) -> None:
            if record is not None:
                record(transaction, outcome)

        await call.commit_charge(charge, "trap" if isinstance(error, Trap) else "err", note)
        telemetry.count_cost(call.canister.name, call.method, charge.instructions, charge.cycles)


def _outcome(call: Call, error: CanisterError | Trap, err: type | None) -> Reply | Trap:
    """What is answered to a call that failed."""
    paid = call.charge() if call.is_admitted else None
    if isinstance(error, Trap):
        return error
    if err is RunOutputRecord:
        return Reply(RunOutputRecord(status_code=error.record_status, error=str(error)), error, paid)
    if err is None:
        return CanisterTrapped(f"Error from Canister {call.canister.id}: {error}")
    return Reply(ApiError(Other=str(error)), error, paid)


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
