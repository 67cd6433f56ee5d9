"""The messages of the private door, by which a herd's leader uses a worker: records, and their bytes.

Bodies are CBOR maps; unknown fields are ignored, so that versions next to each other understand each other. What comes
in pieces is frames (`herd_frames.py`). Pure functions, no I/O. What is no message is a WireError. `herd_requests.py`
has the signatures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast, get_args

from canister.api.cbor_fields import U32, Fields, fields_of
from canister.api.cbor_fields import WireError as WireError
from canister.errors import NotBegunWhy
from canister.ic import cbor
from canister.ic.cbor import Encodable

T = TypeVar("T")

N_JOB, N_HEAD, N_SHA256 = 32, 16, 32

Why = NotBegunWhy


# -- messages


@dataclass(frozen=True, slots=True)
class ChatAt:
    """A chat as the journal has it. path: of its container in stable memory. head: b"" for one that is not there."""

    path: str
    head: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """One call. job: its id, 32 bytes. fence, epoch: of the try and the leader. rev: of the control log, to be reached.

    arg: Candid. seed: below 2^32 - 1, for a chat that begins without one. now_ns: the call's time, since 1970. due_ms:
    milliseconds that it may take from now on. chats: what it may change or read. detached: it goes on when nobody waits
    for it any more.
    """

    job: bytes
    epoch: int
    fence: int
    rev: int
    canister: str
    caller: str
    method: str
    arg: bytes
    seed: int
    now_ns: int
    stream: bool = False
    due_ms: int | None = None
    chats: tuple[ChatAt, ...] = ()
    detached: bool = True


@dataclass(frozen=True, slots=True)
class Control:
    """The entry `rev` of a canister's control log. arg: Candid."""

    rev: int
    epoch: int
    canister: str
    caller: str
    method: str
    arg: bytes
    now_ns: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call cost. limit: instructions that it might have taken; None: not enforced. n_prompt, n_generated: tokens
    that it decoded; None: it had none to decode, or an older version did not tell.
    """

    instructions: int
    cycles: int
    limit: int | None
    parts: Mapping[str, int]
    n_prompt: int | None = None
    n_generated: int | None = None


@dataclass(frozen=True, slots=True)
class ChatChange:
    """What a call did to a chat. container: of the tokens from `keep` on, without KV rows. head b"": it was removed."""

    path: str
    head_before: bytes
    head: bytes
    keep: int
    container: bytes


@dataclass(frozen=True, slots=True)
class Saved:
    """What a call did to the caller's saved chats. started: it began one. chat: the text of the newest one; None: it
    was left alone.
    """

    started: bool
    chat: str | None


@dataclass(frozen=True, slots=True)
class Receipted:
    """The record of a call, without a place in a chain, and the terms that it names. words, argument, output: where
    such things are kept; as of `ic/receipts/document.py`.
    """

    record: bytes
    terms: bytes = b""
    words: bytes = b""
    argument: bytes = b""
    output: bytes = b""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a call. reply: Candid; None: rejected, for the reason in the three fields behind it.

    http_status: of the answer over REST. charge: what the call cost. charged: the canister pays for it; otherwise the
    caller is told only. replayed: the call had ended before, and `chats` are whole, as they are now. receipt: for the
    herd's chain; None: it makes none. receipt_id: of the call in that chain, once the journal has it.
    """

    reply: bytes | None
    reject_code: int | None = None
    reject_message: str | None = None
    error_code: str | None = None
    http_status: int = 200
    charge: Cost | None = None
    charged: bool = True
    chats: tuple[ChatChange, ...] = ()
    saved: Saved | None = None
    replayed: bool = False
    receipt: Receipted | None = None
    receipt_id: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a call was not begun; nothing of it is known then. path, head: of the chat that is another here.

    epoch: the highest one seen. rev: of the last entry of the control log that was run.
    """

    why: Why
    path: str | None = None
    head: bytes | None = None
    epoch: int = 0
    rev: int = 0


@dataclass(frozen=True, slots=True)
class ModelState:
    """The loaded model. sha256: of its file. exact: chats get the same tokens, whatever runs beside them."""

    sha256: bytes
    kv_layout: bytes
    exact: bool
    n_ctx: int
    n_vocab: int


@dataclass(frozen=True, slots=True)
class CanisterState:
    """One canister of a worker. prefill_tps, decode_tps: tokens a second of late, of all chats together; None: not
    known.
    """

    name: str
    id: str
    rev: int
    model: ModelState | None
    loading: bool
    slots: int
    running: int
    waiting: int
    prefill_tps: int | None = None
    decode_tps: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """A worker. idle: it does nothing, and if it is draining, it will not begin anything any more."""

    worker: str
    generation: int
    version: str
    pid: int
    epoch: int
    draining: bool
    idle: bool
    canisters: tuple[CanisterState, ...]


Message = Run | Control | Done | Conflict | State


def encode(message: Message) -> bytes:
    return cbor.encode(plain(message))


def decode(kind: type[T], data: bytes | memoryview) -> T:
    """The message of this kind in `data`. Raises WireError for anything else."""
    return cast("T", _READERS[kind](fields_of(data)))


# -- records to plain values and back


def plain(value: object) -> Encodable:
    """A record as a map, for CBOR."""
    return cast("Encodable", _plain(value))


def _plain(value: object) -> object:
    names = _names(type(value))
    if names:  # a field that is null can be left out
        return {name: _plain(item) for name in names if (item := getattr(value, name)) is not None}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _names(kind: type) -> tuple[str, ...]:
    """The fields of a record; none of anything else."""
    names = _NAMES.get(kind)
    if names is None:
        is_record = dataclasses.is_dataclass(kind)
        names = _NAMES[kind] = tuple(field.name for field in dataclasses.fields(kind)) if is_record else ()
    return names


_NAMES: dict[type, tuple[str, ...]] = {}


def _run(of: Fields) -> Run:
    return Run(
        of.data("job", N_JOB),
        *(of.number("epoch"), of.number("fence"), of.number("rev")),
        *(of.text("canister"), of.text("caller"), of.text("method")),
        of.data("arg"),
        of.number("seed", U32 - 1),
        of.number("now_ns"),
        of.flag("stream", False),
        of.maybe("due_ms", of.number),
        tuple(ChatAt(chat.text("path"), _head(chat, "head")) for chat in of.maps("chats")),
        of.flag("detached", True),
    )


def _control(of: Fields) -> Control:
    return Control(
        *(of.number("rev"), of.number("epoch")),
        *(of.text("canister"), of.text("caller"), of.text("method")),
        of.data("arg"),
        of.number("now_ns"),
    )


def done_of(of: Fields) -> Done:
    """The end of a call that stands in a map."""
    charge, saved, receipt = (of.maybe(name, of.map) for name in ("charge", "saved", "receipt"))
    return Done(
        of.maybe("reply", of.data),
        of.maybe("reject_code", of.number),
        of.maybe("reject_message", of.long_text),
        of.maybe("error_code", of.text),
        of.number("http_status", 599),
        None if charge is None else _cost(charge),
        of.flag("charged", True),
        tuple(_chat_change(chat) for chat in of.maps("chats")),
        None if saved is None else Saved(saved.flag("started"), saved.maybe("chat", saved.long_text)),
        of.flag("replayed", False),
        None if receipt is None else Receipted(*(receipt.data(name) for name in _names(Receipted))),
        of.text("receipt_id") if of.has("receipt_id") else "",
    )


def _cost(of: Fields) -> Cost:
    return Cost(
        of.number("instructions"),
        of.number("cycles"),
        of.maybe("limit", of.number),
        of.map("parts").numbers(),
        *(of.maybe(name, of.number) for name in ("n_prompt", "n_generated")),
    )


def _chat_change(of: Fields) -> ChatChange:
    return ChatChange(
        of.text("path"), _head(of, "head_before"), _head(of, "head"), of.number("keep", U32), of.data("container")
    )


def _head(of: Fields, name: str) -> bytes:
    return of.data(name, 0, N_HEAD)


def _conflict(of: Fields) -> Conflict:
    why = of.text("why")
    if why not in get_args(Why):
        raise WireError(f"a conflict is one of {', '.join(get_args(Why))}, not {why[:40]!r}")
    head = _head(of, "head") if of.has("head") else None
    return Conflict(cast("Why", why), of.maybe("path", of.text), head, of.number("epoch"), of.number("rev"))


def _state(of: Fields) -> State:
    return State(
        *(of.text("worker"), of.number("generation"), of.text("version"), of.number("pid"), of.number("epoch")),
        *(of.flag("draining"), of.flag("idle")),
        tuple(_canister_state(canister) for canister in of.maps("canisters")),
    )


def _canister_state(of: Fields) -> CanisterState:
    model = of.maybe("model", of.map)
    return CanisterState(
        *(of.text("name"), of.text("id"), of.number("rev")),
        None if model is None else _model_state(model),
        of.flag("loading"),
        *(of.number("slots"), of.number("running"), of.number("waiting")),
        *(of.maybe("prefill_tps", of.number), of.maybe("decode_tps", of.number)),
    )


def _model_state(of: Fields) -> ModelState:
    return ModelState(
        of.data("sha256", N_SHA256),
        of.data("kv_layout"),
        of.flag("exact"),
        of.number("n_ctx"),
        of.number("n_vocab"),
    )


_READERS: Mapping[type, Callable[[Fields], object]] = {
    Run: _run,
    Control: _control,
    Done: done_of,
    Conflict: _conflict,
    State: _state,
}
