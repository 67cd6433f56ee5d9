"""A herder: who pays gets an answer from a worker, or the money back, exactly once. Who pays most for what they ask is
first. Everything here happens in the transaction of the message that it is about.
"""

from __future__ import annotations

from dataclasses import dataclass

from canister.ao.journal.money import Desk, Job
from canister.ao.native import fees
from canister.ao.native.answers import Answers, shown_receipts, whole
from canister.ao.processes.messages import Delivered, ProcessInfo, Result

NAME, VERSION = "Llama-Herder", "1.0.0"
LEASE_MS = 10 * 60 * 1000
MAX_TRIES = 2
MAX_QUEUED = 10_000
MAX_PROMPT_BYTES = 64 * 1024
LEASES_OVER = "Leases-Over"
"""Of the node to a herder: some worker has taken too long."""


@dataclass(slots=True)
class _Shift:
    desk: Desk
    info: ProcessInfo
    delivered: Delivered
    answers: Answers
    lease_ms: int

    @property
    def token(self) -> str:
        return self.info.tag("Token") or ""


def handle(
    desk: Desk,
    info: ProcessInfo,
    delivered: Delivered,
    node: str,
    last_multiplier: float,
    lease_ms: int = LEASE_MS,
) -> tuple[Result, float]:
    """last_multiplier: of the job that was dispatched last; returned as it is afterwards. lease_ms: what a worker has
    for an answer.
    """
    shift = _Shift(desk, info, delivered, Answers(delivered), lease_ms)
    sender, owner, message = delivered.sender, delivered.message.owner, delivered.message
    speaks = sender == owner or owner == node  # and for itself, or as a process of this node
    action = (message.tag("Action") or "").lower()
    if action == "info":
        shift.answers.reply(
            "Info-Response",
            Name=NAME,
            Version=VERSION,
            Base_Fee=fees.PROMPT_FEE,
            Token_Fee=fees.TOKEN_FEE,
            Last_Multiplier=f"{fees.published(last_multiplier):.14g}",
            Queue_Length=desk.n_waiting(),
        )
    elif action == "credit-notice" and sender == shift.token and speaks:
        _paid(shift)
    elif action in ("inference-response", "inference-error") and speaks:
        _heard(shift, is_answer=action == "inference-response")
    elif action == LEASES_OVER.lower() and sender == owner == node:
        for job in desk.overdue(delivered.timestamp_ms):
            desk.set_worker(job.worker or "", "late")
            _failed(shift, job, "no worker answered in time")
    elif action in ("add-worker", "remove-worker") and sender in (info.owner, node) and owner in (info.owner, node):
        _staffed(shift, action == "add-worker")
    elif action == "eval":
        return shift.answers.result(
            error="a herder runs no code; see Info, and pay by a Transfer with X-Prompt"
        ), last_multiplier
    last = _dispatch(shift)
    return shift.answers.result(), last_multiplier if last is None else last


def _paid(shift: _Shift) -> None:
    message = shift.delivered.message
    client, quantity = message.tag("Sender") or "", whole(message.tag("Quantity")) or 0
    tags = {name.lower(): value for name, value in reversed(message.tags)}
    prompt, n_tokens = tags.get(b"x-prompt", b""), whole(message.tag("X-Tokens"), 9)
    why, needed = None, 0
    if not prompt.strip():
        why = "X-Prompt is missing or empty"
    elif len(prompt) > MAX_PROMPT_BYTES:
        why = f"X-Prompt has {len(prompt)} bytes; {MAX_PROMPT_BYTES} are taken"
    elif n_tokens is None or not 1 <= n_tokens <= fees.MOST_TOKENS:
        why = f"X-Tokens must be a whole number from 1 to {fees.MOST_TOKENS}"
    else:
        needed = fees.needed(prompt, n_tokens)
        if quantity < needed:
            why = f"{quantity} was paid, and {needed} is needed"
        elif shift.desk.n_waiting() >= MAX_QUEUED:
            why = "the queue is full"
    if why is not None or n_tokens is None:
        _refund(shift, client, quantity, why or "", needed, message.tag("X-Reference"))
        return
    termination = tags.get(b"x-termination", b"")
    multiplier = quantity / needed
    shift.desk.put(Job(client, message.tag("X-Reference"), prompt, n_tokens, termination, quantity, multiplier))


def _heard(shift: _Shift, *, is_answer: bool) -> None:
    """From a worker, about the one job that it has. An answer that comes late is nobody's."""
    worker, message = shift.delivered.sender, shift.delivered.message
    state, job = shift.desk.worker_state(worker), shift.desk.of_worker(worker)
    if state is None:
        return
    if job is not None:
        named = message.tag("X-Reference")
        if named not in (None, f"{job.seq}.{job.n_tries}", job.reference):
            return
    shift.desk.set_worker(worker, "idle")
    if job is None:
        return
    if is_answer:
        shift.desk.end(job)
        receipts = shown_receipts((message.tag("Receipts") or "").split(","))
        shift.answers.send(job.client, "Inference-Response", message.data, X_Reference=job.reference, Receipts=receipts)
    else:
        _failed(shift, job, message.tag("Error") or "a worker failed")


def _failed(shift: _Shift, job: Job, why: str) -> None:
    if job.n_tries < MAX_TRIES:
        shift.desk.take_back(job)
        return
    shift.desk.end(job)
    needed = fees.needed(job.prompt, job.n_tokens)
    _refund(shift, job.client, job.quantity, why, needed, job.reference)


def _refund(shift: _Shift, client: str, quantity: int, why: str, needed: int, reference: str | None) -> None:
    if not quantity or not client:
        return
    shift.answers.send(
        shift.token,
        "Transfer",
        Recipient=client,
        Quantity=quantity,
        X_Reason=why[:300],
        X_Needed=needed,
        X_Reference=reference,
    )


def _staffed(shift: _Shift, is_coming: bool) -> None:
    worker = shift.delivered.message.tag("Worker") or ""
    if not worker or len(worker) > 128:
        shift.answers.reply("Worker-Error", Error="Worker is required: the id of a process")
        return
    state, job = shift.desk.worker_state(worker), shift.desk.of_worker(worker)
    if is_coming and state is None:
        shift.desk.set_worker(worker, "idle")
    elif not is_coming and state is not None:
        shift.desk.remove_worker(worker)
        if job is not None:
            _failed(shift, job, "the worker was removed")
    shift.answers.reply("Worker-Added" if is_coming else "Worker-Removed", Worker=worker)


def _dispatch(shift: _Shift) -> float | None:
    """All that wait and can be given to somebody. The multiplier of the last one."""
    last = None
    while (worker := shift.desk.idle_worker()) is not None and (job := shift.desk.first()) is not None:
        shift.desk.give(job, worker, shift.delivered.timestamp_ms + shift.lease_ms)
        shift.answers.send(
            worker,
            "Inference",
            job.prompt,
            Tokens=job.n_tokens,
            Termination=job.termination.decode(errors="replace") if job.termination else None,
            X_Reference=f"{job.seq}.{job.n_tries + 1}",
        )
        last = job.multiplier
    return last
