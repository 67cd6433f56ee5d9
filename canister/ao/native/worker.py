"""A worker: it reads a prompt with its model, and answers. Runs on a thread, outside of any transaction."""

from __future__ import annotations

from canister.ao.lua.sandbox import HostError
from canister.ao.native.answers import NOT_TAKEN, Answers, shown_receipts, whole
from canister.ao.native.fees import MOST_TOKENS
from canister.ao.processes.messages import Delivered, ProcessInfo, Result
from canister.ao.processes.talk import Talk

_PIECES = 16  # between two looks for the words that end an answer


def handle(talk: Talk, info: ProcessInfo, delivered: Delivered, node: str) -> Result:
    answers = Answers(delivered)
    message, sender = delivered.message, delivered.sender
    talk.begin(is_dry=False)
    if delivered.is_assigned:
        return Result(output=NOT_TAKEN)
    is_owner = sender == message.owner and sender in (info.owner, node)
    is_herder = sender == info.tag("Herder") and message.owner == node  # as all processes have the node for an owner
    if not is_owner and not is_herder:
        return answers.result()
    match (message.tag("Action") or "").lower():
        case "init" if is_owner:
            return _initialized(talk, message.tag("Model-ID") or info.tag("Model-ID") or "", answers)
        case "inference":
            n_tokens = whole(message.tag("Tokens"), 9)
            reference = message.tag("X-Reference") or message.tag("Reference")
            termination = (message.tag("Termination") or "").encode()
            try:
                if n_tokens is None or not 1 <= n_tokens <= MOST_TOKENS:
                    raise HostError(f"Tokens must be a whole number from 1 to {MOST_TOKENS}")
                if not talk.kept.model:
                    talk.ask(b"load", (info.tag("Model-ID") or "").encode())
                text = _answered(talk, message.data, n_tokens, termination)
            except HostError as error:
                answers.send(sender, "Inference-Error", X_Reference=reference, Error=str(error)[:300])
            else:
                answers.send(
                    sender, "Inference-Response", text, X_Reference=reference, Receipts=shown_receipts(talk.receipts)
                )
        case "eval":
            return answers.result(error="a worker runs no code; see Init and Inference")
    return answers.result()


def _initialized(talk: Talk, model: str, answers: Answers) -> Result:
    try:
        talk.ask(b"load", model.encode())
    except HostError as error:
        answers.reply("Worker-Error", Error=str(error)[:300])
    else:
        answers.reply("Worker-Initialized", Model_ID=model)
    return answers.result()


def _answered(talk: Talk, prompt: bytes, n_tokens: int, termination: bytes) -> bytes:
    talk.ask(b"prompt", prompt)
    text = b""
    while n_tokens > 0:
        n = min(_PIECES, n_tokens) if termination else n_tokens
        said = talk.ask(b"say", n)
        if not isinstance(said, bytes):
            break
        text += said
        n_tokens -= n
        if termination and termination in text:
            return text[: text.index(termination)]
    return text
