"""What doors see of a herd: a `Dispatcher` whose canisters run their calls in the mirror, at workers, or everywhere.

Every row of the interface goes where `routing.py` says. A call is refused before it costs anything: its caller's access
and its argument are checked here, against the mirror's state.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, TypeVar

from canister.api import codec, rest_only
from canister.api.herd_requests import job_of_key
from canister.api.methods import BY_NAME, Method
from canister.api.records import (
    ApiError,
    FilesystemRemoveInputRecord,
    FileUploadInputRecord,
    InputRecord,
    RunOutputRecord,
)
from canister.dispatch import CanisterOfHost, Reply, receipts
from canister.dispatch.auditing import Audited, audit_one
from canister.dispatch.guard import read_argument
from canister.dispatch.requests import NOTHING
from canister.errors import CanisterError, NotSupported, Trap
from canister.handlers.named_chats import cache_name
from canister.herd import auditing, replies
from canister.herd.chat_paths import chats_of, check_no_model, prompt_of
from canister.herd.jobs import Job, TextSoFar
from canister.herd.prefixes import beginnings_of
from canister.herd.proxy import engine_of
from canister.herd.receipts import shelf_of, with_cost
from canister.herd.routing import class_of
from canister.state.ingress_history import KEPT_NS, POLLED_NS, IngressMessage, KnownMessage, RecordedAnswer

if TYPE_CHECKING:
    from canister.api.herd_wire import Done
    from canister.dispatch import OnText
    from canister.dispatch.dispatcher import Answers, OpenFile, Target, Worker
    from canister.dispatch.embeddings import Embedded, Text
    from canister.dispatch.inspection import ModelView
    from canister.handlers.receipts import Shelf
    from canister.herd.herd import Herd
    from canister.runtime.canister import Canister

T = TypeVar("T")

KEPT_KEY_NS = 24 * 3600 * 10**9  # an answer with an idempotency key
BLOCK_BYTES = 1024 * 1024  # of a file, in one entry of the control log
NO_ENGINE = ("model", "reason")  # of a report, where a process has no model
LARGE_BYTES = 256 * 1024  # of an argument or a reply: not to be coded on the event loop


class HerdTarget(CanisterOfHost):
    """One canister of a herd. Everything that needs no worker is the mirror's."""

    def __init__(self, herd: Herd, mirrored: Target, canister: Canister) -> None:
        super().__init__(canister)
        self._herd = herd
        self._mirrored = mirrored

    @property
    def answers(self) -> Answers:
        _not_in_a_herd("whole answers of this kind")

    @property
    def worker(self) -> Worker:
        _not_in_a_herd("the work for another herd")

    # -- calls

    async def execute(
        self,
        method: Method,
        caller: str,
        decode: Callable[[], object],
        *,
        on_text: OnText | None = None,
        named: Mapping[str, object] = NOTHING,
        key: str | None = None,
        wants_receipt: bool = False,
    ) -> Reply:
        of = class_of(method)
        if of == "mirror":
            return _in_no_chain(await self._mirrored.execute(method, caller, decode, on_text=on_text, named=named))
        if method is rest_only.REMOVE_CHAT:
            return await self._remove_chat(method, caller, decode, named)
        if of == "alone":
            return _err(method, NotSupported(f"{method.name} is not available in front of a herd; see docs/herd.md"))
        if method is rest_only.REMOVE_FILE:
            method, path = BY_NAME["filesystem_remove"], str(named["path"])
            decode = lambda: FilesystemRemoveInputRecord(filename=path)  # noqa: E731  # of another row
        looked = await read_argument(self._canister, method, caller, decode)
        if looked.error is not None:
            return looked
        if of == "journal":
            return await self._herd.readings.read(self._canister, method, caller, looked.value, named)
        id = None if key is None else job_of_key(self.id, caller, key)
        try:
            job = await self._job(method, caller, looked.value, id)
            if key is not None:
                job.goes_on, job.kept_until_ns = True, job.now_ns + KEPT_KEY_NS
            if on_text is not None and method.is_streamed:
                job.text = TextSoFar(on_text)
            done = await with_cost(self._herd.journal, self.id, await self._run(job))
        except CanisterError as error:
            return _err(method, error)
        return await _in_time_of(len(done.reply or b""), lambda: replies.to_reply(method, done))

    async def _remove_chat(
        self, method: Method, caller: str, decode: Callable[[], object], named: Mapping[str, object]
    ) -> Reply:
        """The mirror has what was said, and the workers its prompt cache."""
        reply = _in_no_chain(await self._mirrored.execute(method, caller, decode, named=named))
        if reply.error is not None:
            return reply
        arg = InputRecord(args=["--prompt-cache", cache_name(str(named["name"]))])
        removed = await self.execute(BY_NAME["remove_prompt_cache"], caller, lambda: arg)
        return reply if removed.error is None else _err(method, removed.error)

    def submit(
        self,
        method: Method,
        message: IngressMessage,
        decode: Callable[[], object],
        encode: Callable[[Reply], bytes],
        named: Mapping[str, object] = NOTHING,
    ) -> asyncio.Future[RecordedAnswer]:
        if class_of(method) == "alone":
            _not_in_a_herd(method.name)
        if class_of(method) == "mirror":
            return self._mirrored.submit(method, message, decode, encode, named)
        return self._herd.messages.submit(
            message, lambda accepted: self._submitted(method, message, decode, encode, accepted)
        )

    async def _submitted(
        self,
        method: Method,
        message: IngressMessage,
        decode: Callable[[], object],
        encode: Callable[[Reply], bytes],
        accepted: Callable[[], None],
    ) -> RecordedAnswer:
        """Run a message of the IC's door. accepted: told once the journal has it."""
        known = await self._mirrored.find_message(message.id)
        looked: Reply | Trap
        if known is None:
            try:
                looked = await read_argument(self._canister, method, message.caller, decode)
            except Trap as trap:
                looked = trap
        if known is not None or isinstance(looked, Trap) or looked.error is not None:
            # It is refused: the mirror does so in the same words, and keeps that.
            refused = self._mirrored.submit(method, message, decode, encode)
            accepted()
            return await asyncio.shield(refused)
        try:
            job = await self._job(method, message.caller, looked.value, message.id)
            job.goes_on = job.settles = job.accepted = True
            job.kept_until_ns = max(message.expires_ns + KEPT_NS, job.now_ns + POLLED_NS)
            if class_of(method) == "journal":
                return replies.to_recorded(await self._herd.run_reading(job, accepted))
            return replies.to_recorded(await self._run(job, accepted))
        except CanisterError as error:
            answer = RecordedAnswer(encode(_err(method, error)))
            await self._canister.ingress.history.record_alone(message, answer)  # the journal has no job that tells it
            return answer

    async def accepted(self, id: bytes) -> None:
        await self._herd.messages.accepted(id)

    async def find_message(self, id: bytes) -> KnownMessage | None:
        running = self._herd.messages.find(id)
        if running is not None:
            return running
        row = await self._herd.leader.journal.find(id)
        if row is None:
            return await self._mirrored.find_message(id)
        if row.answer is None:
            return KnownMessage(row.caller, "processing", None)
        answer = replies.to_recorded(replies.of_answer(row.answer))
        return KnownMessage(row.caller, answer.status, answer)

    async def _run(self, job: Job, accepted: Callable[[], None] = lambda: None) -> Done:
        await self._herd.balance.check(job)
        try:
            if class_of(job.method) in ("control", "model"):
                return await self._herd.run_control(job, accepted)
            return await self._herd.leader.run(job, accepted)
        finally:
            self._canister.logged.tell()

    async def _job(self, method: Method, caller: str, arg: object, id: bytes | None) -> Job:
        of = class_of(method)
        if of == "chat":
            check_no_model(method, arg)
        data = await _in_time_of(_size(arg), lambda: codec.encode_args(method, arg))
        return Job(
            id=os.urandom(32) if id is None else id,
            canister=self.id,
            caller=caller,
            method=method,
            arg=data,
            chats=chats_of(method, caller, arg) if of in ("chat", "ask") else (),
            now_ns=time.time_ns(),
            settles=of != "ask",
            rev=self._herd.control.rev(self.id),
            beginnings=beginnings_of(self.id, caller, prompt_of(arg)) if method.is_streamed else (),
        )

    # -- files

    async def store_stream(self, caller: str, path: str, offset: int, blocks: AsyncIterator[bytes]) -> Reply:
        """In blocks, each an entry of the control log: confirmed ones stay."""
        method = BY_NAME["file_upload_chunk"]
        reply = await read_argument(self._canister, method, caller, lambda: None)
        if reply.error is not None:
            return reply
        async for block in _regrouped(blocks):
            chunk = FileUploadInputRecord(filename=path, chunk=block, chunksize=len(block), offset=offset)
            reply = await self.execute(method, caller, lambda chunk=chunk: chunk)  # type: ignore[misc]
            if reply.error is not None:
                return reply
            offset += len(block)
        return reply

    async def read_stream(self, caller: str, path: str) -> OpenFile | Reply:
        return await self._mirrored.read_stream(caller, path)

    # -- what is known

    def summary(self) -> dict[str, object]:
        model = self._herd.model_of(self.id)
        workers = len(list(self._herd.workers.all))
        return {
            **self._mirrored.summary(),
            "ready": model is not None,
            "model": None if model is None else f"SHA-256 {model.sha256.hex()}",
            "workers": workers,
        }

    def model_names(self) -> tuple[str, ...]:
        return (self.name, self.id) if self._herd.model_of(self.id) is not None else ()

    def inspect_model(self, caller: str) -> ModelView:
        _not_in_a_herd("the details of a model")

    async def tokenize(self, caller: str, texts: Sequence[str]) -> Reply:
        _not_in_a_herd("tokenizing")

    async def embed(self, caller: str, texts: Sequence[Text], *, truncates: bool = False) -> Embedded:
        _not_in_a_herd("embedding")

    async def inspect_engine(self, caller: str) -> Reply:
        reply = await self._mirrored.inspect_engine(caller)
        if reply.error is not None or not isinstance(reply.value, dict):
            return reply
        found = await engine_of(self._herd, self.name, caller)
        if found is None:
            return reply
        cycles = await self._herd.journal.cycles(self.id)
        own = {name: value for name, value in reply.value.items() if name not in NO_ENGINE}
        own = own if cycles is None else {**own, "cycles": cycles}
        return Reply({**found, **own}, charge=reply.charge)

    async def receipt(self, caller: str, id: str, since: int) -> Reply:
        key = self._herd.host.root_key
        return await receipts.find_receipt(self._canister, key, caller, id, since, self._shelf)

    async def receipts(self, caller: str, cache: str | None, below: int, most: int) -> Reply:
        return await receipts.list_receipts(self._canister, caller, cache, below, most, self._shelf)

    async def receipt_head(self, caller: str, since: int) -> Reply:
        return await receipts.certified_head(self._canister, self._herd.host.root_key, caller, since, self._shelf)

    async def audit(self, caller: str, index: int) -> Reply:
        def work() -> Coroutine[None, None, Audited]:
            return auditing.audited(self._herd, self._canister, self._shelf, caller, index)

        return await audit_one(self._canister, caller, index, work)

    @property
    def _shelf(self) -> Shelf:
        return shelf_of(self._herd.journal, self._canister)

    async def inspect_calls(self, caller: str) -> Reply:
        reply = await self._mirrored.inspect_calls(caller)
        return reply if reply.error is not None else Reply(self._herd.calls_of(self.id))


def _not_in_a_herd(what: str) -> NoReturn:
    raise NotInHerd(f"{what} cannot be had in front of a herd; see docs/herd.md")


class NotInHerd(Trap):
    """What a single server can do, and a herd does not do yet."""

    error_code = "not_in_a_herd"
    http_status = 501


def _err(method: Method, error: CanisterError) -> Reply:
    """The `Err` of a row for what went wrong before it ran."""
    if method.err is RunOutputRecord:
        return Reply(RunOutputRecord(status_code=error.record_status, error=str(error)), error)
    if method.err is None:
        raise NotInHerd(str(error)) from error
    return Reply(ApiError(Other=str(error)), error)


def _in_no_chain(reply: Reply) -> Reply:
    """What only the mirror has done leaves its record there, and none in the chain of the herd."""
    if reply.charge is None or not reply.charge.receipt:
        return reply
    return replace(reply, charge=replace(reply.charge, receipt=""))


def _size(arg: object) -> int:
    return len(arg.chunk) if isinstance(arg, FileUploadInputRecord) else 0


async def _in_time_of(n_bytes: int, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if n_bytes > LARGE_BYTES else work()


async def _regrouped(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held = bytearray()
    async for block in blocks:
        held += block
        while len(held) >= BLOCK_BYTES:
            yield bytes(held[:BLOCK_BYTES])
            del held[:BLOCK_BYTES]
    if held:
        yield bytes(held)
