"""Turns whose answers are kept: those with an Idempotency-Key, of any dialect, and stored ones.

Such an answer is a row of its canister. Its events are made from the turn and the tokens each time anew, so a repeated
request gets the same, also after a restart of the server.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from canister import dispatch
from canister.api import strict_json
from canister.dispatch import Answers, KeptAnswer, Question, herd_answers
from canister.errors import AccessDenied, CanisterUnavailable
from canister.server.doors.openai import door, errors, run
from canister.server.doors.openai.door import Model
from canister.server.doors.openai.errors import DoorError, invalid
from canister.server.doors.openai.events import Done, Event
from canister.server.doors.openai.telling import Telling
from canister.server.doors.openai.turn import Turn
from canister.server.requests import caller, dispatcher

KEY_HEADER = "idempotency-key"
MAX_KEY_CHARACTERS = 255

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """A turn made from a request, and what its dialect needs to show it, as JSON."""

    turn: Turn
    about: Json


@dataclass(frozen=True, slots=True)
class Wish:
    """kind: of the interface. id: of the answer. body: the request's bytes. is_listed: it can be found by its id.

    goes_on: it continues without its client, as those with a key do. part: of a request for several answers.
    """

    kind: str
    id: str
    body: bytes
    is_listed: bool = False
    goes_on: bool = False
    part: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer with its events. events: closed early, the answer ends unless it continues without its client.

    about: as in Made, of the request that began the answer. prompt: its text. kept: None: the answer is not kept.
    """

    events: AsyncGenerator[Event]
    about: Json
    prompt: str
    kept: Kept | None = None


async def ask(request: Request, model: Model, wish: Wish, make: Callable[[], Awaitable[Made]]) -> Asked:
    """Begin an answer, or join the one that was begun with the request's Idempotency-Key.

    make: makes the turn; called only for a new answer. DoorError 422: the key was used for another body.
    """
    key = _key(request, wish.part)
    if key is not None:
        known = model.canister.answers.join(model.caller, wish.kind, key, wish.body)
        if known is not None:
            return (await Kept(model.canister.answers, known).again()).asked()
    made = await make()
    admitted = await run.admit(model, made.turn)
    if key is None and not wish.is_listed:
        return Asked(run.events(admitted), made.about, admitted.prompt)

    def told() -> str:
        return json.dumps({"about": made.about, "telling": admitted.telling.to_json()}, ensure_ascii=False)

    is_large = strict_json.is_large(made.about, made.turn.tools, made.turn.output_schema, admitted.prompt)
    question = Question(
        wish.id,
        wish.kind,
        wish.body,
        await door.beside_loop(is_large, told),
        admitted.wanted,
        key,
        is_listed=wish.is_listed,
        goes_on=wish.goes_on or key is not None,
    )
    begun = await model.canister.answers.begin(model.caller, question)
    return Kept(model.canister.answers, begun).asked()


def find(request: Request, id: str, kind: str) -> Kept | None:
    """A listed answer of the caller's, in any of the canisters that it may use. AccessDenied: in none."""
    behind = dispatcher(request)
    named = request.path_params.get("canister")
    refused: AccessDenied | None = None
    n_refused, canisters = 0, behind.targets if named is None else [behind.find(named)]
    for canister in canisters:
        try:
            found = canister.answers.find(caller(request), id, kind)
        except (AccessDenied, CanisterUnavailable) as error:
            refused = error if isinstance(error, AccessDenied) else refused
            n_refused += 1
            continue
        if found is not None:
            return Kept(canister.answers, found)
    if refused is not None and n_refused == len(canisters):
        raise refused
    return None


class Kept:
    """A kept answer, as it was when it was looked up."""

    def __init__(self, answers: Answers, answer: KeptAnswer) -> None:
        self._answers, self._answer = answers, answer
        self._told: Json = json.loads(answer.asked.request)
        self.about: Json = self._told["about"]

    @property
    def id(self) -> str:
        return self._answer.asked.id

    @property
    def is_running(self) -> bool:
        return self._answers.is_running(self._answer)

    @property
    def is_cancelled(self) -> bool:
        return self._answer.status == "cancelled"

    @property
    def ended_at(self) -> float | None:
        """Seconds since 1970."""
        return None if self._answer.ended_ns is None else self._answer.ended_ns // 10**9

    @property
    def failure(self) -> DoorError | None:
        """Why it came to no good end."""
        failed = dispatch.failure_of(self._answer)
        return None if failed is None else errors.of(failed)

    @property
    def is_there(self) -> bool:
        """Was it neither removed nor forgotten since?"""
        return self._answers.is_kept(self._answer)

    def check_goes_on(self) -> None:
        """CanisterBusy while the model is not there that an unfinished answer needs."""
        self._answers.check_goes_on(self._answer)

    def now(self) -> Kept:
        """Looked up again."""
        return Kept(self._answers, self._answers.look_again(self._answer))

    def asked(self) -> Asked:
        """The answer with its events from the start."""
        prompt = Telling.from_json(self._told["telling"]).begun.prompt
        return Asked(self._events(self._answers.parts(self._answer)), self.about, prompt, self)

    async def again(self) -> Kept:
        """Continued, if it failed."""
        return Kept(self._answers, await self._answers.retry(self._answer))

    def events_so_far(self) -> AsyncGenerator[Event]:
        """The present events; none while it is queued."""
        return self._events(self._answers.so_far(self._answer), is_begun=False)

    async def cancel(self) -> Kept:
        return Kept(self._answers, await self._answers.cancel(self._answer))

    async def remove(self) -> None:
        await self._answers.remove(self._answer)

    async def _events(self, parts: AsyncIterator[dispatch.Part], *, is_begun: bool = True) -> AsyncGenerator[Event]:
        telling = Telling.from_json(self._told["telling"])
        if is_begun:
            yield telling.begun
        async for choice, part in parts:
            if not is_begun:
                is_begun = True
                yield telling.begun
            for event in telling.feed(choice, part):
                if isinstance(event, Done):
                    herd_answers.over()
                yield event


def _key(request: Request, part: int) -> str | None:
    key = request.headers.get(KEY_HEADER)
    if key is not None and len(key) > MAX_KEY_CHARACTERS:
        raise invalid(f"Idempotency-Key: at most {MAX_KEY_CHARACTERS} characters are taken, not {len(key)}")
    return f"{key}\n{part}" if key and part else key or None
