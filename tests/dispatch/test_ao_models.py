"""`Llama` of processes of AO on the shipped model: the same texts however they are asked for, each token paid for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from canister.ao.lua.sandbox import HostError
from canister.ao.lua.values import Value
from canister.ao.processes.messages import Outgoing, derived_id
from canister.ao.processes.talk import Kept, Talk
from canister.ao.units import HERDER, TOKEN
from canister.dispatch.ao_models import CanisterModels
from canister.dispatch.receipts import find_receipt
from canister.errors import CanisterStopping, NotFound
from canister.ic.certificate import RootKey
from canister.ic.receipts.document import Receipt
from canister.runtime.canister import Canister
from tests.ao.units.world import OWNER, opened, tags
from tests.harness import CHAT_MODEL, CONTROLLER, Harness, canister_in
from tests.server.served import CHAT
from tests.traces import until, until_so

pytestmark = pytest.mark.anyio
WORKERS = [derived_id("native worker", number) for number in range(2)]
KING = "You are a king. A subject comes to you, and says: "


@pytest.fixture(scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path_factory.mktemp("ao")) as found:
        await found.load(CHAT_MODEL)
        yield found


@pytest.fixture
def canister(harness: Harness) -> Canister:
    return harness.canister


def models_of(canister: Canister) -> CanisterModels:
    def find(id: str) -> Canister:
        if id != "tiny":
            raise NotFound(f"there is no model {id}")
        return canister

    return CanisterModels(find, CONTROLLER, asyncio.get_running_loop())


class Asked:
    """A process' `Llama`, asked from the event loop."""

    def __init__(self, canister: Canister, owner: str) -> None:
        self.talk = Talk(owner, models_of(canister), Kept())
        self.talk.begin(is_dry=False)

    async def __call__(self, *given: Value) -> Value:
        return await asyncio.to_thread(self.talk.ask, *given)

    async def begin(self, prompt: str) -> None:
        await self(b"load", b"tiny")
        await self(b"prompt", prompt.encode())

    async def say(self, n: int) -> bytes:
        said = await self(b"say", n)
        assert said is None or isinstance(said, bytes)
        return said or b""


async def test_the_kings_scene(canister: Canister) -> None:
    king = Asked(canister, "king")
    await king.begin(KING)
    await king(b"save")
    await king(b"add", b"I want a castle. ")
    first = await king.say(40)
    assert await king(b"restore") is True
    await king(b"add", b"I want a horse. ")
    second = await king.say(50)
    fresh = Asked(canister, "another king")
    await fresh.begin(KING)
    await fresh(b"add", b"I want a horse. ")
    assert await fresh.say(50) == second
    assert first
    await fresh.begin(KING)
    await fresh(b"add", b"I want a castle. ")
    assert await fresh.say(40) == first


async def test_however_it_is_asked_for_the_text_is_the_same(canister: Canister) -> None:
    prompt = CHAT.format("Tell me a story")
    at_once, one_by_one, mixed = (Asked(canister, name) for name in ("a", "b", "c"))
    await at_once.begin(prompt)
    text = await at_once.say(24)
    await one_by_one.begin(prompt)
    assert b"".join([await one_by_one.say(1) for _ in range(24)]) == text
    await mixed.begin(prompt)
    assert b"".join([await mixed.say(n) for n in (1, 7, 2, 14)]) == text
    assert mixed.talk.kept.context == one_by_one.talk.kept.context == at_once.talk.kept.context


async def test_a_drawn_text_goes_on_with_its_numbers(canister: Canister) -> None:
    texts = []
    for name, cuts in (("d", (20,)), ("e", (3, 9, 8))):
        asked = Asked(canister, name)
        await asked(b"temperature", 1.5)
        await asked(b"seed", 7)
        await asked.begin("Once upon a time")
        texts.append(b"".join([await asked.say(n) for n in cuts]))
    assert texts[0] == texts[1]


async def test_each_token_is_paid_for(canister: Canister) -> None:
    cycles = canister.ledger.cycles
    asked = Asked(canister, "payer")
    await asked.begin("Once upon a time")
    assert asked.talk.cycles == 0
    await asked.say(5)
    before = asked.talk.cycles
    await asked.say(5)
    assert 0 < before < asked.talk.cycles <= cycles - canister.ledger.cycles
    assert asked.talk.instructions > 0
    methods = [entry.method for entry in canister.call_log.newest(None, None, 2)]
    assert methods == ["generate"] * 2


async def test_a_text_that_ends_is_over(canister: Canister) -> None:
    asked = Asked(canister, "short")
    await asked.begin(CHAT.format("Who are you?"))
    text = await asked.say(400)
    assert text
    context = asked.talk.kept.context
    assert context is not None
    assert context.is_over
    assert await asked(b"say", 1) is None
    await asked(b"add", b"\nAnd then ")
    assert await asked.say(4)


async def test_what_cannot_be_asked(canister: Canister) -> None:
    asked = Asked(canister, "wrong")
    with pytest.raises(HostError, match="no model other"):
        await asked(b"load", b"other")
    with pytest.raises(HostError, match="no model is loaded"):
        await asked(b"say", 1)
    await asked(b"load", b"tiny")
    with pytest.raises(HostError, match="no prompt yet"):
        await asked(b"say", 1)
    assert b"context of" in bytes(str(await asked(b"info")), "utf-8")


async def test_programs_and_herders_are_served_by_the_canister(canister: Canister, tmp_path: Path) -> None:
    pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")
    asked = Asked(canister, "direct")
    await asked.begin("Once upon a time")
    expected = (await asked.say(12)).decode()
    async with opened(tmp_path, models_of(canister), model="tiny", has_herd=True, n_workers=2) as driven:
        king = await driven.program("Llama.load('/data/tiny')")
        say = "Llama.add('I want a %s. ') return Llama.run(%d)"
        scene = f"Llama.setPrompt('{KING}') Llama.saveState()"
        await driven.eval(king, f"{scene} " + say % ("castle", 20))
        second = await driven.eval(king, "Llama.loadState() " + say % ("horse", 20))
        fresh = await driven.program("Llama.load('tiny')")
        assert await driven.eval(fresh, f"{scene} " + say % ("horse", 20)) == second
        assert (await driven.units.used(king)).cycles > (await driven.units.used(fresh)).cycles > 0
        await driven.units.mint(OWNER, 1000)
        paid = {"X_Prompt": "Once upon a time", "X_Tokens": "12", "Recipient": HERDER, "Quantity": "17"}
        await driven.send(TOKEN, "Transfer", **paid)

        async def answered() -> Outgoing | None:
            page = await driven.units.results(HERDER)
            sent = [each for done in page.done for each in done.result.messages if each.target == OWNER]
            return sent[0] if sent else None

        response = await until_so(answered)
        assert response.data.decode() == expected
        assert await driven.units.balance(OWNER) == 1000 - 17
        results = [(await driven.units.results(worker)).done for worker in (king, fresh, *WORKERS)]
        told = [done.result.to_json() for page in results for done in page if done.result.receipts]
        assert len(told) == 4  # two scenes, one again, what was paid for
        assert tags(response)["Receipts"].split(",") == told[-1]["Receipts"]
        for receipt in [id for each in told for id in cast(list[str], each["Receipts"])]:
            found = await find_receipt(canister, RootKey.generate(), CONTROLLER, receipt, 0)
            assert isinstance(found.value, Receipt)


async def test_when_the_models_stop_what_is_said_ends(canister: Canister) -> None:
    asked = Asked(canister, "stopped")
    await asked.begin(KING)
    kept = asked.talk.kept
    models = models_of(canister)
    asked.talk = Talk("stopped", models, kept)
    asked.talk.begin(is_dry=False)
    saying = asyncio.create_task(asked.say(1000))
    await until(lambda: bool(models.running) or saying.done())
    models.close()
    with pytest.raises(CanisterStopping):
        await saying
    assert asked.talk.kept == kept
    with pytest.raises(CanisterStopping):
        await asked.say(1)


async def test_contexts_are_kept_as_bytes(canister: Canister) -> None:
    asked = Asked(canister, "bytes")
    await asked.begin(KING)
    await asked(b"save")
    await asked.say(3)
    again = Kept.unpack(asked.talk.kept.pack())
    assert again == asked.talk.kept
    other = Asked(canister, "bytes")
    other.talk = Talk("bytes", models_of(canister), again)
    other.talk.begin(is_dry=False)
    assert await other.say(5) == await asked.say(5)
