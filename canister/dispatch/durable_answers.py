"""Answers that outlive their client and their server: begun once, joined by repeated requests, resumed after a crash.

    begin → calls, each keeping its tokens in its own transaction → done | failed | cancelled

Events are made from the request and the tokens alone, so they are the same whenever they are read.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from canister.dispatch.answer_making import live_answers, model_there, start, stopped
from canister.dispatch.answer_records import Wanted
from canister.dispatch.answers import loaded_engine, prompt_tokens
from canister.dispatch.kept_answers import AnswerFailed, Choices, Part, replayed
from canister.errors import Trap
from canister.flags.values import UINT32_MAX
from canister.runtime import access
from canister.state import quota
from canister.state.answers import AnswerLimits, KeptAnswer, StoredRequest

if TYPE_CHECKING:
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host


class OtherRequest(Trap):
    """An idempotency key that its caller has used for another request."""

    reject_code = 4
    error_code = "idempotency_key_reused"
    http_status = 422

    def __init__(self, key: str) -> None:
        super().__init__(f"the Idempotency-Key {key[:80]!r} was used for another request; take a new one for this")


@dataclass(frozen=True, slots=True)
class Question:
    """An answer to be kept. kind: the interface of the request. request: what the door needs to show it, as JSON.

    body: the request's bytes, to tell apart another request with the same key. wanted: one for each choice.
    is_listed: found by its id, otherwise only by its key. goes_on: it continues without its client.
    """

    id: str
    kind: str
    body: bytes
    request: str
    wanted: tuple[Wanted, ...]
    key: str | None = None
    is_listed: bool = True
    goes_on: bool = False


def _hash(kind: str, body: bytes) -> bytes:
    return hashlib.sha256(kind.encode() + b"\0" + body).digest()


# -- beginning and joining


def join_answer(canister: Canister, caller: str, kind: str, key: str, body: bytes) -> KeptAnswer | None:
    """The answer that this caller has begun with this key; None if there is none. OtherRequest: of another body."""
    access.check(canister, caller, "inference_query")
    known = canister.answers.find_key(caller, key)
    if known is not None and known.asked.body_hash != _hash(kind, body):
        raise OtherRequest(key)
    return known


async def begin_answer(host: Host, canister: Canister, caller: str, question: Question) -> KeptAnswer:
    """Keep a question, and begin its answer if that continues without its client; or find it by its key.

    Raises OtherRequest, CallerBusy, StorageFull, and the refusals of the first call.
    """
    access.check(canister, caller, "inference_update")
    canister.check_available()
    canister.check_started()
    engine = loaded_engine(canister)
    prompt = await prompt_tokens(engine, question.wanted[0].prompt)
    wanted = map(_fixed, question.wanted)
    choices = Choices(model_id=engine.info.model_id.hex(), wanted=tuple(wanted))
    asked = StoredRequest(
        question.id,
        caller,
        question.kind,
        _hash(question.kind, question.body),
        question.request,
        choices.model_dump_json(),
        prompt.astype("<i4").tobytes(),
        time.time_ns(),
        question.key,
        question.is_listed,
        question.goes_on,
    )
    settings = canister.settings
    quota.check_answer(canister.stable, canister.answers.n_bytes, len(asked.request) + len(asked.prompt), settings)
    limits = AnswerLimits(
        settings.keep_answers_days * 86_400, settings.max_answers_per_caller, settings.max_answer_bytes_per_caller
    )
    kept = await canister.answers.begin(asked, limits)
    if kept.asked.body_hash != asked.body_hash:
        raise OtherRequest(str(question.key))
    if kept.asked.goes_on and kept.ended_ns is None and live_answers(canister).find(kept.asked.id) is None:
        start(host, canister, kept)
    return kept


def find_answer(canister: Canister, caller: str, id: str, kind: str) -> KeptAnswer | None:
    """A listed answer of the caller."""
    access.check(canister, caller, "inference_query")
    kept = canister.answers.find(id)
    if kept is None or kept.asked.caller != caller or kept.asked.kind != kind or not kept.asked.is_listed:
        return None
    return kept


def is_running(canister: Canister, kept: KeptAnswer) -> bool:
    """Is it being made, or will it be without a listener?"""
    return kept.ended_ns is None and (kept.asked.goes_on or live_answers(canister).find(kept.asked.id) is not None)


async def cancel_answer(canister: Canister, kept: KeptAnswer) -> KeptAnswer:
    """Make no more of an answer. What there is of it is kept. An ended answer stays as it is."""
    await stopped(canister, kept.asked.id)
    await canister.answers.end(kept.asked.id, "cancelled")
    return look_again(canister, kept)


async def remove_answer(canister: Canister, kept: KeptAnswer) -> None:
    """Stop and forget an answer. NotFound: somebody else was faster."""
    await cancel_answer(canister, kept)
    await canister.answers.remove(kept.asked.id)


# -- listening


def check_goes_on(canister: Canister, kept: KeptAnswer) -> None:
    """CanisterBusy for an answer that was left and cannot be gone on with now, since the model is not there."""
    if kept.status == "left" or (kept.status == "running" and live_answers(canister).find(kept.asked.id) is None):
        canister.check_started()
        model_there(canister)


def is_kept(canister: Canister, kept: KeptAnswer) -> bool:
    """Was it neither removed nor forgotten since?"""
    return canister.answers.find(kept.asked.id) is not None


async def answer_parts(host: Host, canister: Canister, kept: KeptAnswer) -> AsyncGenerator[Part]:
    """All parts of an answer from its start, then new ones as they come. Makes the answer if nobody does.

    Ends without Answered for a cancelled answer. Raises AnswerFailed for a failed one.
    """
    id = kept.asked.id
    live = live_answers(canister).find(id)
    if live is None:
        kept = look_again(canister, kept)
        if kept.status == "left":
            await canister.answers.go_on(id)
        if kept.status in ("left", "running"):
            is_new = kept.status == "running" and not kept.asked.goes_on
            live = live_answers(canister).find(id) or start(host, canister, kept, is_new=is_new)
    if live is None:
        async for part in replayed(canister, kept):
            yield part
        failed = failure_of(kept)
        if failed is not None:
            raise failed
        return
    async with aclosing(live.listen()) as listened:
        async for part in listened:
            yield part
    if live.failure is not None:
        raise live.failure


async def answer_so_far(canister: Canister, kept: KeptAnswer) -> AsyncGenerator[Part]:
    """The present parts of an answer, without making more."""
    live = live_answers(canister).find(kept.asked.id)
    if live is None:
        async for part in replayed(canister, kept):
            yield part
    else:
        for part in list(live.parts):
            yield part


async def retry_answer(host: Host, canister: Canister, kept: KeptAnswer) -> KeptAnswer:
    """Continue a failed answer from where it is. Others stay as they are."""
    if kept.status != "failed":
        return kept
    access.check(canister, kept.asked.caller, "inference_update")
    await canister.answers.go_on(kept.asked.id)
    kept = look_again(canister, kept)
    if kept.asked.goes_on and kept.status == "running" and live_answers(canister).find(kept.asked.id) is None:
        start(host, canister, kept)
    return kept


def look_again(canister: Canister, kept: KeptAnswer) -> KeptAnswer:
    """As it is now; as it was, if it was removed."""
    return canister.answers.find(kept.asked.id) or kept


def failure_of(kept: KeptAnswer) -> AnswerFailed | None:
    """Why an answer failed, as its listeners were told; None: it did not."""
    return None if kept.status != "failed" or kept.error is None else AnswerFailed.from_json(kept.error)


def _fixed(wanted: Wanted) -> Wanted:
    """The request with its seed drawn, and without the prompt, which is kept beside it."""
    seed = secrets.randbelow(UINT32_MAX) if wanted.seed is None else wanted.seed
    return replace(wanted, prompt=(), seed=seed)
