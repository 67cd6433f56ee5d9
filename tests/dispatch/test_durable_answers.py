"""Answers that outlive their client and their server: begun once, joined, resumed, always with the same parts."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canister import dispatch
from canister.api.records import InputRecord
from canister.api.tokens import Likely, Token
from canister.dispatch import (
    Answered,
    Ingested,
    KeptAnswer,
    Part,
    Piece,
    Question,
    Scored,
    Wanted,
    answers,
    durable_answers,
)
from canister.dispatch.answer_records import Taken
from canister.dispatch.durable_answers import OtherRequest
from canister.dispatch.kept_answers import AnswerFailed, TokenKeeper
from canister.errors import CallerBusy, CanisterBusy, CanisterError, StorageFull
from canister.flags.params import SamplingParams
from canister.runtime.answer_caches import FOLDER
from canister.runtime.canister import Canister
from canister.store.cache_paths import SIDECAR, sessions_of
from tests.harness import CHAT_MODEL
from tests.server.served import CHAT, Served, served
from tests.traces import until

pytestmark = pytest.mark.anyio

PROMPT = CHAT.format("Tell me a story.")
DRAWN = SamplingParams(temperature=1.2, ignore_eos=True, logit_bias=((5, -math.inf),))
WANTED = Wanted(PROMPT, DRAWN, seed=7, max_tokens=35, stops=("no such words",))


class House:
    """A running server, and its controller's questions."""

    def __init__(self, server: Served) -> None:
        self.server, self.host = server, server.host
        self.canister: Canister = server.host.default
        self.caller = server.host.identity.principal

    async def begin(self, wanted: Wanted = WANTED, body: bytes = b"body", **fields: Any) -> KeptAnswer:
        question = Question(secrets.token_hex(8), "test", body, "{}", (wanted,), **fields)
        return await durable_answers.begin_answer(self.host, self.canister, self.caller, question)

    async def parts(self, kept: KeptAnswer) -> list[Part]:
        return [part async for part in durable_answers.answer_parts(self.host, self.canister, kept)]

    async def so_far(self, kept: KeptAnswer) -> list[Part]:
        return [part async for part in durable_answers.answer_so_far(self.canister, kept)]

    def status(self, kept: KeptAnswer) -> str:
        return durable_answers.look_again(self.canister, kept).status

    async def ended(self, kept: KeptAnswer) -> str:
        await until(lambda: self.canister.live_answers.find(kept.asked.id) is None)
        return self.status(kept)


@asynccontextmanager
async def house(folder: Path, **settings: Any) -> AsyncIterator[House]:
    async with served(folder, with_model=True, **settings) as found:  # ten tokens a call
        await until(lambda: found.host.default.model.engine is not None)
        yield House(found)


@pytest.fixture(scope="module")
async def home(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(tmp_path_factory.mktemp("durable")) as found:
        yield found


def told(parts: list[Part]) -> list[Any]:
    """What does not depend on time, nor on how the answer was cut into calls."""
    same: list[Any] = [part for _, part in parts if isinstance(part, Piece)]
    for _, part in parts:
        if isinstance(part, Answered):
            same.append((part.finish, part.stop, part.n_prompt, part.n_generated, part.seed))
    return same


@pytest.fixture(scope="module")
async def expected(home: House) -> list[Any]:
    """What an answer gives that is not kept."""
    return told([(0, event) async for event in answers.answer(home.canister, home.caller, WANTED)])


async def test_it_is_the_answer_that_is_not_kept_and_is_read_again(home: House, expected: list[Any]) -> None:
    kept = await home.begin()
    parts = await home.parts(kept)
    assert told(parts) == expected
    assert len(expected) > 20
    assert await home.ended(kept) == "done"
    again = await home.parts(kept)
    assert told(again) == told(await home.so_far(kept)) == expected
    answered, once_more = parts[-1][1], again[-1][1]
    assert answered == once_more
    assert isinstance(answered, Answered)
    assert answered.n_calls > 3
    calls = home.canister.answers.calls(kept.asked.id)
    assert len(calls) == answered.n_calls


async def test_without_a_client_it_goes_on_where_that_is_wanted(home: House, expected: list[Any]) -> None:
    kept = await home.begin(goes_on=True)
    assert durable_answers.is_running(home.canister, kept)
    assert await home.ended(kept) == "done"
    assert told(await home.parts(kept)) == expected


async def test_else_it_is_left_and_gone_on_with_by_who_comes(home: House, expected: list[Any]) -> None:
    kept = await home.begin()
    async with aclosing(durable_answers.answer_parts(home.host, home.canister, kept)) as parts:
        async for _, part in parts:
            if isinstance(part, Piece):
                break
    assert await home.ended(kept) == "left"
    assert not durable_answers.is_running(home.canister, durable_answers.look_again(home.canister, kept))
    begun = told(await home.so_far(kept))
    assert begun == expected[: len(begun)]
    assert told(await home.parts(kept)) == expected


async def test_two_who_listen_are_told_the_same(home: House, expected: list[Any]) -> None:
    kept = await home.begin()
    first, second = await asyncio.gather(home.parts(kept), home.parts(kept))
    assert told(first) == told(second) == expected


async def test_the_same_key_and_body_are_one_answer(home: House) -> None:
    first = await home.begin(key="one", goes_on=True)
    assert (await home.begin(key="one", goes_on=True)).asked.id == first.asked.id
    joined = durable_answers.join_answer(home.canister, home.caller, "test", "one", b"body")
    assert joined is not None
    assert joined.asked.id == first.asked.id
    with pytest.raises(OtherRequest, match="'one'") as at_begin:
        await home.begin(key="one", body=b"another", goes_on=True)
    with pytest.raises(OtherRequest) as at_join:
        durable_answers.join_answer(home.canister, home.caller, "test", "one", b"another")
    assert str(at_begin.value) == str(at_join.value)
    with pytest.raises(OtherRequest):
        durable_answers.join_answer(home.canister, home.caller, "of another interface", "one", b"body")
    assert durable_answers.join_answer(home.canister, home.caller, "test", "two", b"body") is None


async def test_a_seed_that_is_drawn_is_kept(home: House) -> None:
    kept = await home.begin(replace(WANTED, seed=None))
    first = told(await home.parts(kept))
    await home.ended(kept)
    assert told(await home.parts(kept)) == first


async def test_one_that_is_cancelled_keeps_what_there_is(home: House, expected: list[Any]) -> None:
    kept = await home.begin(replace(WANTED, max_tokens=None), goes_on=True)
    listening = asyncio.create_task(home.parts(kept))
    await until(lambda: len(home.canister.answers.calls(kept.asked.id)) > 3)
    cancelled = await durable_answers.cancel_answer(home.canister, kept)
    assert (cancelled.status, cancelled.ended_ns is None) == ("cancelled", False)
    heard = told(await listening)
    assert heard[:20] == expected[:20]
    assert told(await home.parts(cancelled)) == heard
    assert not [part for _, part in await home.parts(cancelled) if isinstance(part, Answered)]
    assert (await durable_answers.cancel_answer(home.canister, cancelled)).status == "cancelled"


async def test_one_that_is_removed_is_stopped_and_gone(home: House) -> None:
    kept = await home.begin(replace(WANTED, max_tokens=None), goes_on=True)
    await durable_answers.remove_answer(home.canister, kept)
    assert home.canister.answers.find(kept.asked.id) is None
    assert home.canister.live_answers.find(kept.asked.id) is None


async def test_nobody_finds_what_is_anothers_or_not_listed(home: House) -> None:
    kept, hidden = await home.begin(), await home.begin(is_listed=False)
    found = durable_answers.find_answer(home.canister, home.caller, kept.asked.id, "test")
    assert found is not None
    assert durable_answers.find_answer(home.canister, home.caller, kept.asked.id, "other") is None
    assert durable_answers.find_answer(home.canister, home.caller, hidden.asked.id, "test") is None
    other = home.host.keys.create("another", replace=True)
    principal = home.host.principal_of(other)
    assert principal is not None
    assert durable_answers.find_answer(home.canister, principal, kept.asked.id, "test") is None
    with pytest.raises(CanisterError, match="Access Denied"):
        durable_answers.find_answer(home.canister, "2vxsx-fae", kept.asked.id, "test")


async def test_what_fails_is_told_again_and_can_be_tried_again(home: House, expected: list[Any]) -> None:
    kept = await home.begin(goes_on=True, key="fails")
    await home.ended(kept)
    row = home.canister.answers.calls(kept.asked.id)
    assert row
    failing = await home.begin(replace(WANTED, max_tokens=None), goes_on=True, key="fails too")
    await until(lambda: bool(home.canister.answers.calls(failing.asked.id)))
    await home.canister.answers.end(failing.asked.id, "failed", AnswerFailed("no room", 507, "").to_json())
    live = home.canister.live_answers.find(failing.asked.id)
    assert live is not None
    live.stop()
    await home.ended(failing)
    failing = durable_answers.look_again(home.canister, failing)
    with pytest.raises(AnswerFailed, match="no room") as failed:
        await home.parts(failing)
    assert failed.value.http_status == 507
    again = await durable_answers.retry_answer(home.host, home.canister, failing)
    assert again.status == "running"
    await until(lambda: len(home.canister.answers.calls(failing.asked.id)) > 4)
    await durable_answers.cancel_answer(home.canister, again)
    assert told(await home.so_far(again))[:20] == expected[:20]


def scores(parts: list[Part]) -> list[Token]:
    """The prompt's tokens as they are told, some perhaps twice."""
    found: list[Token] = []
    for _, part in parts:
        if isinstance(part, Scored):
            assert part.first <= len(found)
            found[part.first :] = part.tokens
    return found


async def test_the_scores_of_a_prompt_are_kept_too(home: House) -> None:
    wanted = replace(WANTED, n_logprobs=1, n_prompt_logprobs=1)
    whole: list[Part] = [(0, event) async for event in answers.answer(home.canister, home.caller, wanted)]
    kept = await home.begin(wanted)
    async with aclosing(durable_answers.answer_parts(home.host, home.canister, kept)) as parts:
        async for _, part in parts:
            if isinstance(part, Scored):  # of the first call
                break
    assert await home.ended(kept) == "left"
    n_known = len(scores(await home.so_far(kept)))
    assert 0 < n_known < len(scores(whole))
    for _ in range(2):  # gone on with, and read again
        found = await home.parts(kept)
        assert (scores(found), told(found)) == (scores(whole), told(whole))
        assert await home.ended(kept) == "done"


async def test_what_was_told_of_a_call_that_failed_is_told_again(home: House) -> None:
    """The grammar ends where the model may not."""
    endless = SamplingParams(ignore_eos=True, grammar='root ::= "one two three four"')
    kept = await home.begin(Wanted(PROMPT, endless, seed=1), goes_on=True, key="dead end")
    heard: list[Part] = []

    async def listen() -> None:
        async for part in durable_answers.answer_parts(home.host, home.canister, kept):
            heard.append(part)

    with pytest.raises(AnswerFailed, match="No token may follow") as failed:
        await listen()
    assert "".join(piece.text for piece in told(heard)) == "one two three four"
    again = durable_answers.look_again(home.canister, kept)
    assert told(await home.so_far(again)) == told(heard)
    for _ in range(2):  # tried again, it comes to the same
        with pytest.raises(AnswerFailed, match="No token may follow"):
            await home.parts(again)
        again = await durable_answers.retry_answer(home.host, home.canister, again)
        assert again.status == "running"
        await home.ended(again)
        again = durable_answers.look_again(home.canister, again)
        assert told(await home.so_far(again)) == told(heard)
    assert failed.value.http_status == 400


async def test_a_lost_prompt_cache_does_no_harm(home: House) -> None:
    kept = await home.begin()
    async with aclosing(durable_answers.answer_parts(home.host, home.canister, kept)) as parts:
        async for _, part in parts:
            if isinstance(part, Piece) and len(home.canister.answers.calls(kept.asked.id)) > 3:
                break
    await home.ended(kept)
    begun = told(await home.so_far(kept))
    for path in home.canister.stable.newest_below(f"{sessions_of(home.caller)}/{FOLDER}", 100):
        if path.endswith(SIDECAR):
            continue
        arg = InputRecord(args=["--prompt-cache", path.removeprefix(f"{sessions_of(home.caller)}/")])
        method = dispatch.find_method(home.canister, "remove_prompt_cache")
        removed = await dispatch.execute(home.canister, method, home.caller, lambda arg=arg: arg)
        assert removed.error is None, removed.error
    parts_after = await home.parts(kept)
    assert told(parts_after)[: len(begun)] == begun
    answered = parts_after[-1][1]
    assert isinstance(answered, Answered)
    assert answered.n_generated == WANTED.max_tokens


async def test_choices_share_a_prompt_and_are_told_apart(home: House) -> None:
    choices = tuple(replace(WANTED, seed=seed, max_tokens=12) for seed in (1, 2, 3))
    question = Question(secrets.token_hex(8), "test", b"", "{}", choices)
    kept = await durable_answers.begin_answer(home.host, home.canister, home.caller, question)
    parts = await home.parts(kept)
    await home.ended(kept)
    again = await home.parts(kept)
    for choice, wanted in enumerate(choices):
        alone = [(0, event) async for event in answers.answer(home.canister, home.caller, wanted)]
        for found in (parts, again):
            assert told([(0, part) for number, part in found if number == choice]) == told(alone)


async def test_probabilities_and_parts_of_characters_come_back(home: House) -> None:
    kept = await home.begin()
    tokens = [
        Token(1, b"\xf0\x9f", -0.5, (Likely(1, b"\xf0\x9f", -0.5), Likely(2, b"\x00\xff", -math.inf))),
        Token(3, "\u2028é".encode()),
    ]
    taken = Taken(5, 0, n_sampled=2, n_calls=1)
    transaction = home.canister.stable.begin()
    TokenKeeper(home.canister, kept.asked.id, 0, []).keep(transaction, tokens, taken)
    await home.canister.commit(transaction)
    again = TokenKeeper(home.canister, kept.asked.id, 0, home.canister.answers.calls(kept.asked.id))
    assert (list(again.tokens), again.taken) == (tokens, taken)


async def test_too_many_unfinished_are_refused(tmp_path: Path) -> None:
    async with house(tmp_path, max_answers_per_caller=2, max_answer_bytes_per_caller=10_000) as home:
        endless = replace(WANTED, max_tokens=None)
        kept = [await home.begin(endless, goes_on=True) for _ in range(2)]
        with pytest.raises(CallerBusy, match="max_answers_per_caller = 2"):
            await home.begin(endless, goes_on=True)
        await durable_answers.cancel_answer(home.canister, kept[0])
        third = await home.begin(endless, goes_on=True)
        assert home.canister.answers.find(kept[0].asked.id) is None
        for one in (kept[1], third):
            await durable_answers.cancel_answer(home.canister, one)
        question = Question("big", "test", b"", "x" * 20_000, (endless,))
        with pytest.raises(StorageFull, match="max_answer_bytes_per_caller = 10000"):
            await durable_answers.begin_answer(home.host, home.canister, home.caller, question)


async def test_after_the_end_of_the_server_it_goes_on_at_the_next_start(tmp_path: Path, expected: list[Any]) -> None:
    async with house(tmp_path) as home:
        kept = await home.begin(goes_on=True)
        left = await home.begin()
        async with aclosing(durable_answers.answer_parts(home.host, home.canister, left)) as parts:
            async for _, part in parts:
                if isinstance(part, Ingested):
                    break
        await until(lambda: len(home.canister.answers.calls(kept.asked.id)) > 2)
    async with house(tmp_path) as home:
        assert told(await home.parts(kept)) == expected
        assert await home.ended(kept) == "done"
        assert home.status(left) == "left"
        assert told(await home.parts(left)) == expected


async def test_draining_stops_what_nobody_listens_to(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        kept = await home.begin(replace(WANTED, max_tokens=None), goes_on=True)
        await until(lambda: bool(home.canister.answers.calls(kept.asked.id)))
        home.host.is_draining = True
        await until(lambda: home.canister.live_answers.find(kept.asked.id) is None)
        assert home.host.is_idle
        assert home.status(kept) == "running"


async def test_while_the_model_is_not_there_nothing_is_lost(tmp_path: Path, expected: list[Any]) -> None:
    async with house(tmp_path) as home:
        kept = await home.begin()
        async with aclosing(durable_answers.answer_parts(home.host, home.canister, kept)) as parts:
            async for _, part in parts:
                if isinstance(part, Piece):
                    break
        await home.ended(kept)
        model, engine = home.canister.model, home.canister.model.engine
        model.engine = None
        with pytest.raises(CanisterBusy, match="not loaded"):
            await home.parts(kept)
        assert home.status(kept) == "left"
        model.engine = engine
        assert told(await home.parts(kept)) == expected


async def test_it_goes_on_when_the_model_is_loaded_anew_meanwhile(tmp_path: Path) -> None:
    async with house(tmp_path) as home, home.server.client() as controller:
        wanted = replace(WANTED, max_tokens=600)
        kept = await home.begin(wanted, goes_on=True)
        await until(lambda: bool(home.canister.answers.calls(kept.asked.id)))
        before = home.canister.model.engine
        loaded = await controller.post("/load_model", json={"args": ["--model", f"models/{CHAT_MODEL.name}"]})
        assert loaded.status_code == 200, loaded.text
        assert home.canister.model.engine is not before
        assert await home.ended(kept) == "done"
        alone = [(0, event) async for event in answers.answer(home.canister, home.caller, wanted)]
        assert told(await home.parts(kept)) == told(alone)


async def test_one_that_is_refused_at_once_is_not_kept(home: House) -> None:
    kept = await home.begin(replace(WANTED, sampling=replace(DRAWN, grammar="no grammar")))
    with pytest.raises(AnswerFailed, match="grammar") as refused:
        await home.parts(kept)
    assert refused.value.http_status == 400
    assert home.canister.answers.find(kept.asked.id) is None
