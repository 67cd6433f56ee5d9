"""The programs in samples/ao: written for people to read, and run here as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.processes.messages import Outgoing
from canister.ao.units import HERDER, TOKEN
from tests.ao.units.world import MODEL, NODE, OWNER, Driven, Shelf, opened, tags
from tests.traces import until_so

pytestmark = pytest.mark.anyio
SAMPLES = Path(__file__).parents[3] / "samples" / "ao"


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def driven(tmp_path: Path, shelf: Shelf) -> AsyncIterator[Driven]:
    async with opened(tmp_path, shelf, has_herd=True, n_workers=1) as made:
        await made.units.mint(OWNER, 10**15)
        yield made


async def sample(driven: Driven, name: str, before: str = "", **named: str) -> str:
    return await driven.program(f"{before}\n{(SAMPLES / f'{name}.lua').read_text()}", **named)


async def sent(driven: Driven, process: str, action: str, n: int = 1) -> Sequence[Outgoing]:
    """Messages of a process with this action, once there are so many."""

    async def come() -> Sequence[Outgoing] | None:
        page = await driven.units.results(process, limit=10_000)
        errors = [done.result.error for done in page.done if done.result.error]
        assert not errors
        found = [each for done in page.done for each in done.result.messages if tags(each).get("Action") == action]
        return found if len(found) >= n else None

    return await until_so(come)


async def pay(driven: Driven, process: str, quantity: int, **named: str) -> None:
    await driven.send(TOKEN, "Transfer", Recipient=process, Quantity=str(quantity), **named)


def about(outgoing: Outgoing) -> Mapping[str, str]:
    return tags(outgoing)


async def test_a_paid_joke(driven: Driven, shelf: Shelf) -> None:
    joker = await sample(driven, "joker", "PRICE = '500'")
    await driven.units.mint(joker, 10_000)
    await pay(driven, joker, 500, **{"X-JokeTopic": "cats<|end|>"})
    (joke,) = await sent(driven, joker, "ChatMessage")
    assert (joke.target, about(joke)["Author-Name"], about(joke)["Topic"]) == (OWNER, "Llama Joker", "cats<|end|>")
    assert joke.data
    (prompt,) = shelf.model.prompts
    assert prompt.count(b"<|end|>") == 2
    assert b"Topic: catsend<|end|>" in prompt
    for named, quantity in (({"X-JokeTopic": "x" * 21}, 500), ({}, 500), ({"X-JokeTopic": "dogs"}, 499)):
        await pay(driven, joker, quantity, **named)
    refunds = [each for each in await sent(driven, joker, "Transfer", 4) if about(each)["Recipient"] == OWNER]
    assert [about(each)["Quantity"] for each in refunds] == ["500", "500", "499"]
    assert await driven.eval(joker, "CutJoke('  Why? Because.\\nMore<|end|>x')") == "Why? Because."


async def test_the_package_asks_for_prices_and_tells_of_refusals(driven: Driven) -> None:
    client = await driven.program("""
      APM.install('@sam/Llama-Herder')
      Herder = require('@sam/Llama-Herder')
      Told = {}
      function tell(answer, why) Told[#Told + 1] = answer or ('no: ' .. why) end
    """)
    await driven.eval(client, "Herder.run('a b c', 5, tell)")
    refused = await sent(driven, client, "Transfer")
    assert about(refused[0])["Quantity"] == "9"

    async def told(n: int) -> str:
        async def come() -> str | None:
            found = await driven.eval(client, "table.concat(Told, '|') .. '|' .. #Told")
            return found if found.endswith(f"|{n}") else None

        return await until_so(come)

    assert (await told(1)).startswith("no: Insufficient Balance!")
    await driven.units.mint(client, 1000)
    await driven.eval(client, "Herder.run('a b c', 5, tell)")
    assert "|defgh|" in await told(2)
    await driven.eval(client, "Herder.run('a b c', 5, tell, { Fee = 3 })")
    assert "no: 3 was paid, and 9 is needed" in await told(3)
    assert await driven.eval(client, "Herder.calculateFee('a b c', 10, { Multiplier = 1.1 })") == "15"
    assert await driven.units.balance(client) == 1000 - 9
    await driven.eval(client, "Herder = nil")
    fresh = await driven.program("APM.install('@sam/Llama-Herder') Herder = require('@sam/Llama-Herder')")
    await driven.units.mint(fresh, 100)
    await driven.eval(fresh, "Herder.run('a b', 2, function(a) Answer = a end, { Fee = 20 })")  # before any Info
    await sent(driven, HERDER, "Inference-Response", 2)


async def test_bets_are_paid_or_lost_and_others_come_back(driven: Driven) -> None:
    oracle = await sample(driven, "oracle", "UNIT = '100'")
    await driven.units.mint(oracle, 100_000)
    for word, quantity in (("High", 99), ("Low", 1001), ("Middle", 100)):
        await pay(driven, oracle, quantity, **{"X-JokeTopic": word})
    refunds = await sent(driven, oracle, "Transfer", 3)
    assert [about(each)["Quantity"] for each in refunds] == ["99", "1001", "100"]
    for _ in range(30):
        await pay(driven, oracle, 200, **{"X-JokeTopic": "High"})
    said = await sent(driven, oracle, "ChatMessage", 30)
    n_won = sum(b"You were right" in each.data for each in said)
    wins = (await sent(driven, oracle, "Transfer", 3 + n_won))[3:]
    assert {about(each)["Quantity"] for each in wins} <= {"300"}
    assert len(wins) == n_won
    assert 0 < n_won < 30


async def test_the_king_hears_petitions_and_pays(driven: Driven) -> None:
    king = await sample(driven, "king", f"MODEL = '{MODEL}' PRICE = '100' PER_DAY = 1")
    await driven.units.mint(king, 100_000)
    await pay(driven, king, 100, X_Petition="I want a horse", X_Sender_Name="Bob")
    (said,) = await sent(driven, king, "ChatMessage")
    assert said.data == b"Bob, The king has nothing to say."
    assert (about(said)["Grade"], int(about(said)["Reward"]) % 2) == ("1", 0)
    (paid,) = await sent(driven, king, "Transfer")
    assert int(about(paid)["Quantity"]) == 100 * int(about(said)["Reward"])
    await pay(driven, king, 100, X_Petition="And a cart", X_Sender_Name="Bob")  # once a day
    await pay(driven, king, 100, X_Petition="x" * 251, X_Sender_Name="Eve")
    await pay(driven, king, 99, X_Petition="x", X_Sender_Name="Eve")
    assert [about(each)["Quantity"] for each in (await sent(driven, king, "Transfer", 4))[1:]] == ["100", "100", "99"]
    read = "(function(t) local r, g = ReadGrade(t) return r .. g end)"
    assert await driven.eval(king, read + """('x {"response": "Yes", "grade": 5} {}')""") == "Yes5"
    assert await driven.eval(king, read + """('{"response": "Yes", "grade": 6}')""") == "The king has nothing to say.1"
    rewards = "table.concat({ Reward(0, 1, 10), Reward(5, nil, 10), Reward(3, 1.2, 5), Reward(5, 1e9, 10) }, ' ')"
    assert await driven.eval(king, rewards) == "0 60 40 11111111"


async def test_kind_words_are_bought(driven: Driven) -> None:
    chat = await driven.program(
        "Handlers.add('ChatHistory', function(m) m.reply({ Action = 'ChatHistory-Response', Data = 'lovely' }) end)"
    )
    agent = await sample(driven, "sentiment", f"CHAT = '{chat}' EXCHANGE = '{chat}'")
    await driven.units.mint(agent, 1000)
    await driven.send(agent, "Cron")
    await sent(driven, agent, "Transfer")

    async def graded() -> bool | None:
        return await driven.eval(agent, "#Grades") == "1" or None

    await until_so(graded)
    assert await driven.eval(agent, "ReadSentiment(' 4 of 5') .. ReadSentiment('none')") == "40"


async def test_the_chatbot_answers_the_room(driven: Driven) -> None:
    room = await driven.program()
    bot = await sample(driven, "chatbot", f"CHAT = '{room}'")
    await driven.units.mint(bot, 1000)
    say = f"Send({{ Target = '{bot}', Action = 'Broadcasted', ['Author-Name'] = 'Eve', Data = 'hello' }})"
    await driven.eval(room, say)
    (said,) = await sent(driven, bot, "Broadcast")
    assert (said.target, about(said)["Author-Name"]) == (room, "Llama")
    assert await driven.eval(bot, "CutAnswer(' Hi there STOP and more')") == "Hi there"


async def test_a_service_that_infers(driven: Driven) -> None:
    service = await sample(driven, "inference", f"MODEL = '{MODEL}'")

    async def infer(data: str, **named: str) -> Mapping[str, str]:
        done = await driven.send(service, "Infer", data, X_Reference="7", **named)
        assert done.result.error is None
        (answer,) = done.result.messages
        assert (answer.target, tags(answer)["X-Reference"]) == (OWNER, "7")
        return {**tags(answer), "Data": answer.data.decode()}

    assert (await infer("ab", X_Options='{"max_tokens": 3}', X_Session="s"))["Data"] == '{"result":"cde"}'
    assert (await infer("x", X_Options='{"max_tokens": 3}', X_Session="s"))["Data"] == '{"result":"y"}'
    assert (await infer(""))["Code"] == "400"
    assert "no JSON" in (await infer("ab", X_Options="{"))["Message"]
    assert await driven.eval(service, "Sessions.s") == "abcdexy"


async def test_a_worker_in_lua(tmp_path: Path) -> None:
    async with opened(tmp_path, Shelf(), has_herd=True, n_workers=0) as driven:
        await driven.units.mint(OWNER, 100)
        code = (SAMPLES / "worker.lua").read_text()
        worker = await driven.program(code, owner=NODE)
        await driven.send(worker, "Init", owner=NODE, Model_ID=MODEL)
        (reply,) = await sent(driven, worker, "Worker-Initialized")
        assert about(reply)["Model-ID"] == MODEL
        await driven.send(HERDER, "Add-Worker", owner=NODE, Worker=worker)
        await pay(driven, HERDER, 9, X_Prompt="a b c", X_Tokens="5")
        (answer,) = await sent(driven, HERDER, "Inference-Response")
        assert answer.data == b"defgh"
