"""Requests: large bodies are decoded aside, and the client that goes away ends its call."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from starlette.requests import Request

from canister.errors import Cancelled
from canister.server.requests import MAX_BYTES_AT_ONCE, decoding, while_connected

pytestmark = pytest.mark.anyio


class Peer:
    """A client's side of a request: what it sends, and when it goes away."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = list(messages)
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_a_call_whose_client_goes_away_is_cancelled() -> None:
    peer = Peer({"type": "http.request", "body": b"", "more_body": False})
    events = []

    async def work() -> None:
        try:
            peer.gone.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # rolling back
            events.append("rolled back")
            raise

    with pytest.raises(Cancelled):
        await while_connected(Request({"type": "http"}, peer.receive), work())
    assert events == ["rolled back"]


async def test_a_call_that_ends_in_time_is_answered() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await while_connected(Request({"type": "http"}, Peer().receive), work()) == 7


async def test_a_call_is_cancelled_with_its_request() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    task = asyncio.create_task(while_connected(Request({"type": "http"}, Peer().receive), work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


async def test_a_large_body_is_decoded_beside_the_event_loop() -> None:
    assert decoding(bytes(MAX_BYTES_AT_ONCE), threading.get_ident) == threading.get_ident()
    made = decoding(bytes(MAX_BYTES_AT_ONCE + 1), threading.get_ident)
    assert not isinstance(made, int)
    assert await made != threading.get_ident()
