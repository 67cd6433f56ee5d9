"""What a door may ask of what stands behind it: the canisters of this process (`local.py`), or others.

A `Dispatcher` has `Target`s, which are canisters, and each of them `Answers`, which are chains of calls. A door knows
nothing else: no host, no canister of `runtime`, no state.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from canister.dispatch.requests import NOTHING

if TYPE_CHECKING:
    from canister.api.herd_frames import Frame
    from canister.api.herd_requests import ToldRecord
    from canister.api.herd_wire import CanisterState, Control, Done, Run
    from canister.api.methods import Method, Mode
    from canister.config import ServerSettings
    from canister.dispatch.answer_records import Event as AnswerEvent
    from canister.dispatch.answer_records import Prompt, Wanted
    from canister.dispatch.auditing import Audited
    from canister.dispatch.durable_answers import Question
    from canister.dispatch.embeddings import Embedded, Text
    from canister.dispatch.execute import Reply
    from canister.dispatch.inspection import ModelView
    from canister.dispatch.kept_answers import Part
    from canister.ic.certificate import RootKey
    from canister.ic.identity import Identity
    from canister.runtime.call import OnText
    from canister.state.answers import KeptAnswer
    from canister.state.ingress_history import IngressMessage, KnownMessage, RecordedAnswer


class OpenFile(Protocol):
    """A file open for reading, as it was when it was opened. size: in bytes. sha256: hex, where it is known."""

    @property
    def size(self) -> int: ...

    @property
    def modified_ns(self) -> int: ...

    @property
    def sha256(self) -> str | None: ...

    def blocks(self, first: int, end: int) -> AsyncIterator[bytes]:
        """Bytes first…end (exclusive), in pieces."""
        ...

    def close(self) -> None:
        """Call it once at the end, also when nothing was read."""
        ...


class Answers(Protocol):
    """Whole answers of one canister, each a chain of calls; see `answers.py` and `durable_answers.py`."""

    async def prompt_tokens(self, caller: str, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, for Wanted. Raises what it would be refused for."""
        ...

    def now(self, caller: str, wanted: Sequence[Wanted]) -> AsyncGenerator[tuple[int, AnswerEvent]]:
        """Answers to one prompt to whoever listens; closed early, the running calls are cancelled."""
        ...

    def join(self, caller: str, kind: str, key: str, body: bytes) -> KeptAnswer | None:
        """The answer that this caller has begun with this key."""
        ...

    async def begin(self, caller: str, question: Question) -> KeptAnswer:
        """Keep a question, and begin with its answer if it goes on without its client; or find it by its key."""
        ...

    def find(self, caller: str, id: str, kind: str) -> KeptAnswer | None:
        """An answer of the caller's that is listed."""
        ...

    def is_running(self, kept: KeptAnswer) -> bool:
        """Is it being made, or will it be without anybody's doing?"""
        ...

    def is_kept(self, kept: KeptAnswer) -> bool:
        """False when it was removed or forgotten since."""
        ...

    def check_goes_on(self, kept: KeptAnswer) -> None:
        """CanisterBusy for an unfinished answer that cannot be continued now, since the model is not there."""
        ...

    def look_again(self, kept: KeptAnswer) -> KeptAnswer:
        """As it is now; as it was, if it was removed."""
        ...

    def parts(self, kept: KeptAnswer) -> AsyncGenerator[Part]:
        """All that there is of it from its start, then what comes."""
        ...

    def so_far(self, kept: KeptAnswer) -> AsyncGenerator[Part]:
        """What there is of it at this moment."""
        ...

    async def retry(self, kept: KeptAnswer) -> KeptAnswer:
        """One that failed is gone on with from where it is."""
        ...

    async def cancel(self, kept: KeptAnswer) -> KeptAnswer:
        """Make no more of it; what there is of it is kept."""
        ...

    async def remove(self, kept: KeptAnswer) -> None:
        """Forget it; it is stopped first."""
        ...


class Worker(Protocol):
    """One canister, as the leader of its herd uses it; see `herd_calls.py` and `herd_chats.py`."""

    @property
    def epoch(self) -> int:
        """The highest that a leader has shown."""
        ...

    @property
    def rev(self) -> int:
        """Of the last entry of the control log that was run."""
        ...

    @property
    def n_jobs(self) -> int:
        """Jobs that run or wait."""
        ...

    def state(self) -> CanisterState: ...

    def run_job(self, run: Run) -> AsyncGenerator[Frame]:
        """What a job says as it comes, then its end. Raises NotBegun."""
        ...

    async def run_control(self, control: Control) -> Done:
        """Run the next entry of the control log. Raises NotBegun."""
        ...

    async def get_chat(self, caller: str, path: str, *, rows: bool) -> tuple[Reply, bytes]:
        """The container of a chat, in the reply, and its head."""
        ...

    async def put_chat(
        self, caller: str, path: str, container: bytes, head: bytes | None = None
    ) -> tuple[Reply, bytes]:
        """Let a chat be exactly what a container holds; no bytes: remove it. With the head that it has then.

        head: that of the container; one with another head is refused.
        """
        ...

    async def get_answer(self, caller: str, id: str) -> bytes | None:
        """A copy of a kept answer; None: there is none."""
        ...

    async def put_answer(self, copy: bytes) -> None:
        """Have a kept answer as another worker has it."""
        ...

    async def forget_answer(self, caller: str, id: str | None, key: str | None) -> None:
        """Have no kept answer of this id or key any more, however far it is."""
        ...

    async def audit(self, told: ToldRecord) -> Audited:
        """Decode a call again that any worker may have run."""
        ...


class Target(Protocol):
    """One canister, as doors see it. id and controllers: principals in text form."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def controllers(self) -> Collection[str]: ...

    @property
    def answers(self) -> Answers: ...

    @property
    def worker(self) -> Worker: ...

    def find_method(self, name: str, mode: Mode = "update") -> Method:
        """The row of the interface table; MethodNotFound names the nearest. Queries can be called as updates too."""
        ...

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
        """Run one method when it is its caller's turn; see `requests.execute`. Raises Trap for a reject.

        key: the caller's name for this call, that with the same name gets the same answer where answers are kept: in a
        herd.
        """
        ...

    def submit(
        self,
        method: Method,
        message: IngressMessage,
        decode: Callable[[], object],
        encode: Callable[[Reply], bytes],
        named: Mapping[str, object] = NOTHING,
    ) -> asyncio.Future[RecordedAnswer]:
        """Run one method for a message that may come twice; see `messages.submit`."""
        ...

    async def accepted(self, id: bytes) -> None:
        """Wait until a message that was given to `submit` is kept, where it is kept before it runs: in a herd."""
        ...

    async def find_message(self, id: bytes) -> KnownMessage | None:
        """What is known of a message that came to `submit`."""
        ...

    async def store_stream(self, caller: str, path: str, offset: int, blocks: AsyncIterator[bytes]) -> Reply:
        """Upload a file of any size; see `streams.store_stream`."""
        ...

    async def read_stream(self, caller: str, path: str) -> OpenFile | Reply:
        """Open a file for reading, or answer why not. The caller closes it, whether it was read or not."""
        ...

    def summary(self) -> dict[str, object]:
        """Facts that anybody may know."""
        ...

    def model_names(self) -> tuple[str, ...]:
        """What the loaded model is called; none while none is loaded."""
        ...

    def inspect_model(self, caller: str) -> ModelView:
        """The loaded model, for whoever may use it. AccessDenied; NotFound; CanisterBusy: it is coming."""
        ...

    async def tokenize(self, caller: str, texts: Sequence[str]) -> Reply:
        """The tokens of texts, as they are in the midst of others."""
        ...

    async def embed(self, caller: str, texts: Sequence[Text], *, truncates: bool = False) -> Embedded:
        """The vectors of texts; see `embeddings.embed`."""
        ...

    async def inspect_engine(self, caller: str) -> Reply:
        """How its model runs, for callers who may see what is not their own."""
        ...

    async def receipt(self, caller: str, id: str, since: int) -> Reply:
        """The receipt of a call; see `receipts.find_receipt`."""
        ...

    async def receipts(self, caller: str, cache: str | None, below: int, most: int) -> Reply:
        """The caller's calls, on one of its prompt caches or all; see `receipts.list_receipts`."""
        ...

    async def receipt_head(self, caller: str, since: int) -> Reply:
        """The head of the chain of receipts, certified now; see `receipts.certified_head`."""
        ...

    async def audit(self, caller: str, index: int) -> Reply:
        """Decode a call again, for an admin; see `auditing.audit_one`."""
        ...

    async def inspect_calls(self, caller: str) -> Reply:
        """The running and waiting calls, for its controllers."""
        ...

    async def wait_for_call(self, n: int, seconds: float) -> int:
        """How many calls were logged since the start, as soon as that is not n, or after some seconds."""
        ...


class Dispatcher(Protocol):
    """Everything that doors, pages and middleware ask for. settings: of the server. is_draining: it is about to end,
    and accepts nothing new. node: signs answers to IC queries. root_key: signs certificates.
    """

    @property
    def settings(self) -> ServerSettings: ...

    @property
    def is_draining(self) -> bool: ...

    @property
    def node(self) -> Identity: ...

    @property
    def root_key(self) -> RootKey: ...

    @property
    def targets(self) -> Sequence[Target]:
        """All canisters, the default one first."""
        ...

    @property
    def default(self) -> Target:
        """The canister of a request that names none."""
        ...

    def find(self, name_or_id: str) -> Target:
        """A canister by name or id. CanisterNotFound names the nearest, or all when there are few."""
        ...

    def with_id(self, canister_id: bytes) -> Target:
        """The canister of an IC message. CanisterNotFound in the IC's words."""
        ...

    def principal_of(self, key: str) -> str | None:
        """The principal of an API key; None for a key that does not count."""
        ...

    def not_ready(self) -> Mapping[str, str]:
        """By name, why canisters are not ready that should have a model and do not have it yet."""
        ...

    def observe(self) -> dict[str, dict[str, float]]:
        """The present metrics of each canister."""
        ...
