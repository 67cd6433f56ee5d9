"""Whole answers inside the server: a chain of calls, each one admitted, metered and logged as any other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from canister import dispatch
from canister.api.methods import Method
from canister.api.records import InputRecord, RunOutputRecord
from canister.api.rest_records import ApplyTemplateInput
from canister.errors import BadRequest, CanisterError
from canister.runtime.canister import Canister
from tests.server.served import CHAT, Served, served
from tests.traces import until

pytestmark = pytest.mark.anyio

QUESTION = "Who are you?"
MESSAGES = ApplyTemplateInput.model_validate({"messages": [{"role": "user", "content": QUESTION}]})
GREEDY = ("--temp", "0.0")


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("answers"), with_model=True) as found:  # ten tokens a call
        yield found


@pytest.fixture
def canister(server: Served) -> Canister:
    return server.host.default


@pytest.fixture
def caller(server: Served) -> str:
    return server.host.identity.principal


async def all_of(canister: Canister, caller: str, wanted: dispatch.Wanted) -> tuple[list[str], dispatch.Answered]:
    parts = [part async for part in dispatch.answer(canister, caller, wanted)]
    answered = parts.pop()
    assert isinstance(answered, dispatch.Answered)
    return [part for part in parts if isinstance(part, str)], answered


async def first_part(canister: Canister, caller: str) -> str:
    """What the first call answers that has all of the prompt; the calls made by hand."""
    update = dispatch.find_method(canister, "run_update")
    prompt, record = CHAT.format(QUESTION), None
    while record is None or record.prompt_remaining:
        record = await run_update(canister, update, caller, "-p", prompt, "-n", "1")
    return (await run_update(canister, update, caller, "-p", "")).output


async def run_update(canister: Canister, update: Method, caller: str, *args: str) -> RunOutputRecord:
    arg = InputRecord(args=[*args, *GREEDY, "--prompt-cache", "by-hand"])
    reply = await dispatch.execute(canister, update, caller, lambda: arg)
    assert isinstance(reply.value, RunOutputRecord)
    return reply.value


async def test_an_answer_comes_out_of_several_calls_and_is_paid_by_call(canister: Canister, caller: str) -> None:
    cycles = canister.ledger.cycles
    pieces, answered = await all_of(canister, caller, dispatch.Wanted(MESSAGES, answer_tokens=25, flags=GREEDY))
    assert "".join(pieces) == answered.text
    assert len(pieces) > 5
    assert answered.finish in ("stop", "length")
    assert answered.n_calls > 3
    assert answered.n_prompt_tokens > 10
    assert 0 < answered.cycles <= cycles - canister.ledger.cycles
    first = await first_part(canister, caller)
    assert first
    assert answered.text.startswith(first)


async def test_nothing_stays_of_an_answer_without_a_cache(server: Served, canister: Canister, caller: str) -> None:
    await all_of(canister, caller, dispatch.Wanted(MESSAGES, answer_tokens=5, flags=GREEDY))
    assert list(server.host.data_dir.glob("canisters/*/stable/.canister_cache/*/sessions/answer-*")) == []


async def test_who_has_enough_ends_the_call(canister: Canister, caller: str) -> None:
    engine = canister.model.engine
    assert engine is not None
    wanted = dispatch.Wanted(MESSAGES, answer_tokens=10_000, flags=[*GREEDY, "--ignore-eos"])
    async with aclosing(dispatch.answer(canister, caller, wanted)) as parts:
        assert isinstance(await anext(parts), str)
    await until(lambda: engine.stats().n_running == 0)


async def test_what_a_call_is_refused_for_is_raised(canister: Canister, caller: str) -> None:
    with pytest.raises(BadRequest, match="Cannot parse args"):
        await all_of(canister, caller, dispatch.Wanted("Hello", flags=["--nonsense"]))
    with pytest.raises(CanisterError, match="Access Denied"):
        await all_of(canister, "2vxsx-fae", dispatch.Wanted(MESSAGES))
