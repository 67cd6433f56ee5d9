"""Requests for whole answers, how they are kept, and what is known of an answer while it is made."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from canister.dispatch.herd_answers import response_id_of
from canister.herd.told_events import ToldEvents
from canister.ic import cbor
from canister.runtime.live_answers import LiveAnswer

if TYPE_CHECKING:
    from canister.herd.workers import Worker

KEPT_METHOD = "response"  # of rows of the journal that are kept answers

_CREATED = re.compile(r"(/canisters/[^/]+)?(/v1)?/responses")


@dataclass(frozen=True, slots=True)
class Keeping:
    """An answer can be had again by its id. background: it is made without its client. is_streamed: to the client."""

    background: bool
    is_streamed: bool


def keeping_of(path: str, body: bytes) -> Keeping | None:
    """How the answer to this request is kept; None: it is not, or the request will be refused. Slow for long ones."""
    if _CREATED.fullmatch(path) is None:
        return None
    try:
        asked = json.loads(body)
    except ValueError:
        return None
    if not isinstance(asked, dict) or asked.get("store", True) is False:
        return None
    return Keeping(asked.get("background") is True, asked.get("stream") is True)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a whole answer. key: under which it may come again. keeping: None: it cannot be had by its id.

    Without a key and not in the background it ends with its client.
    """

    method: str
    path: str
    target: str
    body: bytes
    headers: Mapping[str, str]
    caller: str
    key: str | None
    keeping: Keeping | None = None

    @property
    def body_hash(self) -> bytes:
        return hashlib.sha256(self.body).digest()

    @property
    def is_in_background(self) -> bool:
        return self.keeping is not None and self.keeping.background

    @property
    def is_unheard(self) -> bool:
        """Does nobody read it while it is made?"""
        return self.keeping is not None and self.keeping.background and not self.keeping.is_streamed

    @property
    def goes_on(self) -> bool:
        """Also without its client."""
        return self.key is not None or self.is_in_background


@dataclass(frozen=True, slots=True)
class Head:
    """length: of the body, in bytes; None: it is a stream."""

    status: int
    headers: Mapping[str, str]
    length: int | None


Live = LiveAnswer[Head | bytes]


@dataclass(eq=False, slots=True)
class Progress:
    """What is known of an answer over all of its tries. ids: of receipts, by the names that stand for them. n_settled:
    of its calls, the first ones. can_move: it comes from a worker that tells where its events begin. at: the worker
    that is making it, as soon as it can be asked for it. is_accepted: the journal has it, and a later leader goes on.
    """

    asked: Asked
    id: bytes
    now_ns: int
    events: ToldEvents = field(default_factory=ToldEvents)
    ids: dict[bytes, bytes] = field(default_factory=dict)
    lost_with: set[tuple[str, int]] = field(default_factory=set)
    n_settled: int = 0
    n_tries: int = 0
    has_head: bool = False
    can_move: bool = True
    is_accepted: bool = False
    at: Worker | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def response_id(self) -> str:
        """Under which it can be had again, if it is kept."""
        return response_id_of(self.id)


def encode(progress: Progress) -> bytes:
    """What another leader needs to go on with an answer in the background."""
    asked = progress.asked
    told = {"method": asked.method, "path": asked.path, "target": asked.target, "body": asked.body, "key": asked.key}
    return cbor.encode({**told, "headers": dict(asked.headers), "id": progress.id, "now_ns": progress.now_ns})


def decode(caller: str, data: bytes) -> Progress:
    """Raises ValueError and its like for what is no such thing."""
    told = cbor.decode(data)
    if not isinstance(told, dict):
        raise ValueError("not a request that was accepted")
    request = {name: told[name] for name in ("method", "path", "target", "body", "headers", "key")}
    asked = Asked(**request, caller=caller, keeping=keeping_of(str(told["path"]), bytes(told["body"])))  # type: ignore[arg-type]  # as `encode` wrote it
    return Progress(asked, bytes(told["id"]), int(told["now_ns"]), is_accepted=True)  # type: ignore[arg-type]
