"""A door that dies while it runs an update of what all workers have: its client finds the answer by the call's id, the
call is run once, and none is lost that was accepted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister import dispatch
from canister.api import codec
from canister.api.methods import BY_NAME
from canister.dispatch import Reply
from canister.herd import mirror
from canister.herd.dispatcher import HerdDispatcher
from canister.herd.mirror import Mirror
from canister.herd.target import HerdTarget
from canister.herd.tries import Tries
from canister.state.ingress_history import IngressMessage, RecordedAnswer
from tests.herd.herds import InProcess, herd_in
from tests.traces import until

pytestmark = pytest.mark.anyio

LEVEL = {"level": 1}
ID = b"m" * 32


class Hung:
    """Something that never comes back, as in a process that dies there."""

    def __init__(self) -> None:
        self.n = 0

    async def __call__(self, *_: object, **__: object) -> Any:
        self.n += 1
        await asyncio.Event().wait()


def target_of(herd: InProcess) -> HerdTarget:
    found = HerdDispatcher(herd.herd, dispatch.of_host(herd.host)).default
    assert isinstance(found, HerdTarget)
    return found


def sent(herd: InProcess) -> asyncio.Future[RecordedAnswer]:
    """set_access as a message of the IC's door, with the same id each time."""
    row = BY_NAME["set_access"]

    def encode(reply: Reply) -> bytes:
        return codec.encode_reply(row, reply.value)

    message = IngressMessage(ID, herd.host.identity.principal, time.time_ns() + 240 * 10**9)
    return target_of(herd).submit(row, message, lambda: codec.args_from_json(row, LEVEL), encode)


DIES: list[Callable[[pytest.MonkeyPatch, Hung], None]] = [
    lambda patch, hung: patch.setattr(Mirror, "run", hung),  # the entry is in the log, and not run
    lambda patch, hung: patch.setattr(Tries, "settle", hung),  # it is run, and its end is not in the journal
]


@pytest.mark.parametrize("dies", DIES, ids=["before it is run", "before it is settled"])
async def test_an_accepted_message_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: Callable[[pytest.MonkeyPatch, Hung], None]
) -> None:
    hung = Hung()
    async with herd_in(tmp_path, 0) as herd:
        with monkeypatch.context() as patch:
            dies(patch, hung)
            message = sent(herd)
            await target_of(herd).accepted(ID)  # its client was told 202
            await until(lambda: hung.n == 1)
            rev = await herd.herd.journal.control_rev(herd.host.default.id)
    message.cancel()
    async with herd_in(tmp_path, 0) as herd:
        await until_known(herd)
        known = await target_of(herd).find_message(ID)
        assert known is not None
        assert known.answer is not None
        assert known.answer.status == "replied"
        assert (await sent(herd)).reply == known.answer.reply
        assert await herd.herd.journal.control_rev(herd.host.default.id) == rev
        assert (await herd.call("get_access"))["level"] == 1


async def test_a_message_whose_answer_is_forgotten_ends_with_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = Hung()
    async with herd_in(tmp_path, 0) as herd:
        with monkeypatch.context() as patch:
            patch.setattr(Tries, "settle", hung)
            message = sent(herd)
            await until(lambda: hung.n == 1)
    message.cancel()
    monkeypatch.setattr(mirror, "find_message", lambda *_: None)
    async with herd_in(tmp_path, 0) as herd:
        await until_known(herd)
        known = await target_of(herd).find_message(ID)
        assert known is not None
        assert known.answer is not None
        assert known.answer.status == "rejected"
        assert "forgotten" in (known.answer.reject_message or "")


async def until_known(herd: InProcess) -> None:
    while True:
        known = await target_of(herd).find_message(ID)
        if known is not None and known.answer is not None:
            return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("dies", DIES, ids=["before it is run", "before it is settled"])
async def test_a_call_that_is_sent_again_with_its_key_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: Callable[[pytest.MonkeyPatch, Hung], None]
) -> None:
    hung = Hung()
    async with herd_in(tmp_path, 0) as herd:
        with monkeypatch.context() as patch:
            dies(patch, hung)
            call = asyncio.ensure_future(herd.post("set_access", LEVEL, "key"))
            await until(lambda: hung.n == 1)
            rev = await herd.herd.journal.control_rev(herd.host.default.id)
            call.cancel()
            with suppress(asyncio.CancelledError, httpx.HTTPError):
                await call
    async with herd_in(tmp_path, 0) as herd:
        answers = await asyncio.gather(*(herd.call("set_access", LEVEL, "key") for _ in range(3)))
        assert answers[0] == answers[1] == answers[2] == await herd.call("set_access", LEVEL, "key")
        assert await herd.herd.journal.control_rev(herd.host.default.id) == rev
        other = await herd.post("set_access", {"level": 0}, "key")
        assert "another call" in other.text
        assert (await herd.call("get_access"))["level"] == 1
