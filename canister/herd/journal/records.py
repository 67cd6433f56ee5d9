"""What goes into the journal and comes out of it. Times are nanoseconds since 1970; amounts whole units of 10^-12."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from canister.api.herd_wire import ChatChange, Receipted, Saved
from canister.metering.fees import CallOutcome, Charge

JobState = Literal["queued", "running", "done", "refused"]
"""refused: ended without an answer of the canister; its hold went back to the payer, its answer tells why."""

PaymentKind = Literal["mint", "transfer", "hold", "settle", "refund"]

OPERATOR = "operator"
"""The account that settled fees go to. No principal and no address has this form."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A call that has come.

    id: 32 bytes, of the request or the idempotency key. chats: the paths of the prompt caches that it changes. hold:
    what is held of the payer's money until the job ends, all of it is the fee; 0 where nobody pays. due_ns: to be
    refused when it has not begun by then. kept_until_ns: until then the answer can be asked for again.
    """

    id: bytes
    canister: str
    caller: str
    method: str
    arg: bytes
    chats: tuple[str, ...] = ()
    multiplier: float = 1.0
    hold: int = 0
    payer: str | None = None
    due_ns: int | None = None
    kept_until_ns: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """reply: Candid; None: rejected, for the reason in the other fields. receipt: the id of the call's; "": none."""

    reply: bytes | None
    reject_code: int | None = None
    reject_message: str | None = None
    error_code: str | None = None
    http_status: int = 200
    receipt: str = ""


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as the journal has it. seq rises with arrival. answer: None until it ends. is_refunded: the payer has it
    back."""

    seq: int
    id: bytes
    canister: str
    caller: str
    method: str
    arg: bytes
    chats: tuple[str, ...]
    multiplier: float
    hold: int
    payer: str | None
    due_ns: int | None
    kept_until_ns: int
    state: JobState
    worker: str | None
    fence: int
    tries: int
    made_ns: int
    ended_ns: int | None
    is_refunded: bool
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """is_new: the caller of `accept` has to run it. Otherwise the job was known before; its row has the state and, once
    it has ended, the answer."""

    is_new: bool
    job: JobRow


@dataclass(frozen=True, slots=True)
class Settled:
    """A call that has run, to be made durable.

    id: of the job. new: the job itself, if it was not accepted before it ran. is_passing: such a job for whose answer
    nobody can ask again; it leaves no row. fence, epoch: of the assignment. charge: None where the canister is not
    charged and nothing is logged. is_refunded: the hold goes back to the payer, since the call did not do what was paid
    for. receipt: the record of the call, for the canister's chain.
    """

    id: bytes
    epoch: int
    fence: int
    worker: str
    answer: Answer
    outcome: CallOutcome = "ok"
    charge: Charge | None = None
    chats: tuple[ChatChange, ...] = ()
    saved: Saved | None = None
    is_refunded: bool = False
    started_ns: int = 0
    ended_ns: int = 0
    new: NewJob | None = None
    is_passing: bool = False
    receipt: Receipted | None = None


StaleReason = Literal["epoch", "fence", "head", "chat"]
"""epoch: another leads. fence: the job was given to another worker. head: a chat has changed meanwhile; the job has to
run again from where the chat is now. chat: a change does not give the head that it names; the worker is at fault.
"""


@dataclass(frozen=True, slots=True)
class SettleOutcome:
    """done: this settled it. known: it had ended before, with `answer`. stale: nothing has changed, for the reason
    `why`.

    path: of the chat. note: more about it, for the log.
    """

    outcome: Literal["done", "known", "stale"]
    answer: Answer | None = None
    why: StaleReason | None = None
    path: str | None = None
    note: str = ""


Requeued = Literal["queued", "refused", "stale"]
"""refused: it has had its tries, and was refunded. stale: it is not this assignment's any more."""


@dataclass(frozen=True, slots=True)
class Chat:
    """The state of a chat. stored_head: of the state whose KV rows the object store has. worker: who ran it last."""

    canister: str
    caller: str
    path: str
    head: bytes
    n_tokens: int
    worker: str | None
    stored_head: bytes | None
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Leader:
    """Who led last. address: where a door finds it. Whether it still does is for `lead` to find out."""

    holder: str
    address: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Door:
    """A door that waits for the lead. address: where it is found. seen_ns: when it was there last."""

    holder: str
    address: str
    seen_ns: int


@dataclass(frozen=True, slots=True)
class ControlEntry:
    """An update of a canister's small state. Either arg is there, or `object` with the SHA-256 of it in the objects."""

    canister: str
    rev: int
    caller: str
    method: str
    arg: bytes | None
    object: bytes | None
    now_ns: int


@dataclass(frozen=True, slots=True)
class Balance:
    """free: can be spent. held: for jobs that have not ended."""

    free: int
    held: int


@dataclass(frozen=True, slots=True)
class Payment:
    """One movement of money. source None: minted. job: whose fee it is."""

    id: int
    kind: PaymentKind
    source: str | None
    target: str
    amount: int
    job: bytes | None
    at_ns: int
    note: str


@dataclass(frozen=True, slots=True)
class Supply:
    """All money: what was minted, and what the accounts have together. They are equal, always."""

    minted: int
    free: int
    held: int
