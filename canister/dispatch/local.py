"""The canisters of this process, as doors see them: the `Dispatcher` of a running host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from canister.dispatch import (
    answers,
    auditing,
    durable_answers,
    embeddings,
    herd_calls,
    herd_chats,
    herd_kept,
    inspection,
    messages,
    receipts,
    requests,
    streams,
)
from canister.dispatch.behind_host import CanisterOfHost, HostDispatcher
from canister.dispatch.execute import Reply
from canister.dispatch.requests import NOTHING

if TYPE_CHECKING:
    from canister.api.herd_frames import Frame
    from canister.api.herd_requests import ToldRecord
    from canister.api.herd_wire import CanisterState, Control, Done, Run
    from canister.api.methods import Method
    from canister.dispatch.answer_records import Event as AnswerEvent
    from canister.dispatch.answer_records import Prompt, Wanted
    from canister.dispatch.dispatcher import Answers, Dispatcher, OpenFile, Target, Worker
    from canister.dispatch.durable_answers import Question
    from canister.dispatch.embeddings import Embedded, Text
    from canister.dispatch.inspection import ModelView
    from canister.dispatch.kept_answers import Part
    from canister.runtime.call import OnText
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host
    from canister.state.answers import KeptAnswer
    from canister.state.ingress_history import IngressMessage, KnownMessage, RecordedAnswer


@dataclass(frozen=True, slots=True)
class LocalAnswers:
    """Whole answers of a canister of a host."""

    _host: Host
    _canister: Canister

    async def prompt_tokens(self, caller: str, prompt: Prompt) -> list[int]:
        return await answers.prompt_tokens_of(self._canister, caller, prompt)

    def now(self, caller: str, wanted: Sequence[Wanted]) -> AsyncGenerator[tuple[int, AnswerEvent]]:
        return answers.answer_choices(self._canister, caller, wanted)

    def join(self, caller: str, kind: str, key: str, body: bytes) -> KeptAnswer | None:
        return durable_answers.join_answer(self._canister, caller, kind, key, body)

    async def begin(self, caller: str, question: Question) -> KeptAnswer:
        return await durable_answers.begin_answer(self._host, self._canister, caller, question)

    def find(self, caller: str, id: str, kind: str) -> KeptAnswer | None:
        return durable_answers.find_answer(self._canister, caller, id, kind)

    def is_running(self, kept: KeptAnswer) -> bool:
        return durable_answers.is_running(self._canister, kept)

    def is_kept(self, kept: KeptAnswer) -> bool:
        return durable_answers.is_kept(self._canister, kept)

    def check_goes_on(self, kept: KeptAnswer) -> None:
        durable_answers.check_goes_on(self._canister, kept)

    def look_again(self, kept: KeptAnswer) -> KeptAnswer:
        return durable_answers.look_again(self._canister, kept)

    def parts(self, kept: KeptAnswer) -> AsyncGenerator[Part]:
        return durable_answers.answer_parts(self._host, self._canister, kept)

    def so_far(self, kept: KeptAnswer) -> AsyncGenerator[Part]:
        return durable_answers.answer_so_far(self._canister, kept)

    async def retry(self, kept: KeptAnswer) -> KeptAnswer:
        return await durable_answers.retry_answer(self._host, self._canister, kept)

    async def cancel(self, kept: KeptAnswer) -> KeptAnswer:
        return await durable_answers.cancel_answer(self._canister, kept)

    async def remove(self, kept: KeptAnswer) -> None:
        await durable_answers.remove_answer(self._canister, kept)


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """A canister of a host that works for a herd."""

    _host: Host
    _canister: Canister

    @property
    def epoch(self) -> int:
        return self._canister.herd.marks.epoch

    @property
    def rev(self) -> int:
        return self._canister.herd.marks.rev

    @property
    def n_jobs(self) -> int:
        return len(self._canister.herd.jobs)

    def state(self) -> CanisterState:
        state = herd_calls.state_of(self._canister)
        return replace(state, loading=True) if self._canister.name in self._host.pending else state

    def run_job(self, run: Run) -> AsyncGenerator[Frame]:
        return herd_calls.run_job(self._canister, run)

    async def run_control(self, control: Control) -> Done:
        return await herd_calls.run_control(self._canister, control)

    async def get_chat(self, caller: str, path: str, *, rows: bool) -> tuple[Reply, bytes]:
        return await herd_chats.get_chat(self._canister, caller, path, rows=rows)

    async def put_chat(
        self, caller: str, path: str, container: bytes, head: bytes | None = None
    ) -> tuple[Reply, bytes]:
        return await herd_chats.put_chat(self._canister, caller, path, container, head)

    async def get_answer(self, caller: str, id: str) -> bytes | None:
        return await herd_kept.get(self._canister, caller, id)

    async def put_answer(self, copy: bytes) -> None:
        await herd_kept.put(self._canister, copy)

    async def forget_answer(self, caller: str, id: str | None, key: str | None) -> None:
        await herd_kept.forget(self._canister, caller, id, key)

    async def audit(self, told: ToldRecord) -> auditing.Audited:
        return await auditing.audit_call(self._canister, told.index, told)


class LocalTarget(CanisterOfHost):
    """A canister of a host."""

    def __init__(self, host: Host, canister: Canister) -> None:
        super().__init__(canister)
        self._host = host

    @property
    def answers(self) -> Answers:
        return LocalAnswers(self._host, self._canister)

    @property
    def worker(self) -> Worker:
        return LocalWorker(self._host, self._canister)

    def execute(
        self,
        method: Method,
        caller: str,
        decode: Callable[[], object],
        *,
        on_text: OnText | None = None,
        named: Mapping[str, object] = NOTHING,
        key: str | None = None,
        wants_receipt: bool = False,
    ) -> Coroutine[Any, Any, Reply]:
        named = self._named(method, named)
        prepare = requests.receipted if wants_receipt else None
        return requests.execute(self._canister, method, caller, decode, on_text=on_text, named=named, prepare=prepare)

    def submit(
        self,
        method: Method,
        message: IngressMessage,
        decode: Callable[[], object],
        encode: Callable[[Reply], bytes],
        named: Mapping[str, object] = NOTHING,
    ) -> asyncio.Future[RecordedAnswer]:
        return messages.submit(self._canister, method, message, decode, encode, self._named(method, named))

    async def accepted(self, id: bytes) -> None: ...

    async def find_message(self, id: bytes) -> KnownMessage | None:
        return messages.find_message(self._canister, id)

    async def store_stream(self, caller: str, path: str, offset: int, blocks: AsyncIterator[bytes]) -> Reply:
        return await streams.store_stream(self._canister, caller, path, offset, blocks)

    async def read_stream(self, caller: str, path: str) -> OpenFile | Reply:
        return await streams.read_stream(self._canister, caller, path)

    def summary(self) -> dict[str, object]:
        return self._canister.summary()

    def model_names(self) -> tuple[str, ...]:
        return inspection.model_names(self._canister)

    def inspect_model(self, caller: str) -> ModelView:
        return inspection.inspect_model(self._host, self._canister, caller)

    async def tokenize(self, caller: str, texts: Sequence[str]) -> Reply:
        return await inspection.tokenize(self._canister, caller, texts)

    async def embed(self, caller: str, texts: Sequence[Text], *, truncates: bool = False) -> Embedded:
        return await embeddings.embed(self._canister, caller, texts, truncates=truncates)

    async def inspect_engine(self, caller: str) -> Reply:
        return await inspection.inspect_engine(self._canister, caller)

    async def receipt(self, caller: str, id: str, since: int) -> Reply:
        return await receipts.find_receipt(self._canister, self._host.root_key, caller, id, since)

    async def receipts(self, caller: str, cache: str | None, below: int, most: int) -> Reply:
        return await receipts.list_receipts(self._canister, caller, cache, below, most)

    async def receipt_head(self, caller: str, since: int) -> Reply:
        return await receipts.certified_head(self._canister, self._host.root_key, caller, since)

    async def audit(self, caller: str, index: int) -> Reply:
        return await auditing.audit_one(self._canister, caller, index)

    async def inspect_calls(self, caller: str) -> Reply:
        return await inspection.inspect_calls(self._canister, caller)

    def _named(self, method: Method, named: Mapping[str, object]) -> Mapping[str, object]:
        """What the handler takes beside the argument; of the server's methods, the host too."""
        return {**named, "host": self._host} if method.knows_server else named


class LocalDispatcher(HostDispatcher):
    """A host whose canisters run their calls in this process."""

    def _target(self, canister: Canister) -> Target:
        return LocalTarget(self._host, canister)


def of_host(host: Host) -> Dispatcher:
    """The dispatcher for doors in front of this host."""
    return LocalDispatcher(host)
