"""A token, a herder and its workers: who pays gets an answer or the money back, once; who pays most is first."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.native import fees
from canister.ao.native.answers import MAX_RECEIPTS_CHARACTERS, shown_receipts
from canister.ao.processes.messages import Outgoing, derived_id
from canister.ao.units import HERDER, TOKEN, Settings, Units
from canister.errors import BadRequest
from tests.ao.units.world import MODEL, NODE, OWNER, Driven, Shelf, message, opened, tags
from tests.traces import until_so

pytestmark = pytest.mark.anyio
QUESTION = "What is the meaning of life?"
THIEF = "e" * 43
WORKERS = [derived_id("native worker", number) for number in range(4)]


@pytest.fixture
async def driven(tmp_path: Path) -> AsyncIterator[Driven]:
    async with opened(tmp_path, Shelf(), has_herd=True, n_workers=1) as made:
        await made.units.mint(OWNER, 10_000)
        yield made


def gates(shelf: Shelf) -> threading.Event:
    """The model says nothing until this is set."""
    shelf.model.gate = threading.Event()
    return shelf.model.gate


async def pay(driven: Driven, quantity: int, prompt: str = QUESTION, n: str = "5", **named: str) -> None:
    given = {"Recipient": HERDER, "Quantity": str(quantity), "X_Prompt": prompt, "X_Tokens": n, **named}
    await driven.send(TOKEN, "Transfer", **given)


async def sent(driven: Driven, process: str, target: str = OWNER) -> Sequence[Outgoing]:
    """All that a process has sent to somebody so far."""
    page = await driven.units.results(process, limit=10_000)
    return [each for done in page.done for each in done.result.messages if each.target == target]


async def answers(driven: Driven, n: int) -> Sequence[Outgoing]:
    """Of the herder, once there are so many."""

    async def come() -> Sequence[Outgoing] | None:
        found = await sent(driven, HERDER)
        return found if len(found) >= n else None

    return await until_so(come)


async def balances(driven: Driven) -> tuple[int, int]:
    return await driven.units.balance(OWNER), await driven.units.balance(HERDER)


async def info(driven: Driven) -> dict[str, str]:
    return dict(tags((await driven.send(HERDER, "Info")).result.messages[0]))


@pytest.mark.parametrize(
    ("prompt", "n"), [("don't stop", 3), ("héllo wörld", 4), ("<|system|>\nTell a joke<|end|>", 5), ("", 0), ("a_b", 2)]
)
def test_words(prompt: str, n: int) -> None:
    assert fees.words(prompt.encode()) == n


def test_fees() -> None:
    question = QUESTION.encode()
    assert (fees.needed(question, 5), fees.needed(question, 20)) == (12, 27)
    prompts = [(b"a b c", 10), (b"w " * 83, 10), (b"w " * 83, 210)]
    assert [fees.needed(*each) for each in prompts] == [14, 94, 294]
    assert fees.published(float("inf")) == 1000


async def test_a_paid_request_is_answered(driven: Driven) -> None:
    await pay(driven, 12, X_Reference="7", X_Termination="wx")
    (answer,) = await answers(driven, 1)
    assert (answer.data, tags(answer)["Action"], tags(answer)["X-Reference"]) == (b"tuv", "Inference-Response", "7")
    assert tags(answer)["Receipts"] == "5-receipt"
    notices = await sent(driven, TOKEN)
    assert [tags(each)["Action"] for each in notices] == ["Debit-Notice"]
    (credit,) = await sent(driven, TOKEN, HERDER)
    found = tags(credit)
    assert (found["Action"], found["Sender"], found["Quantity"], found["X-Prompt"]) == (
        "Credit-Notice",
        OWNER,
        "12",
        QUESTION,
    )
    assert await balances(driven) == (9988, 12)


async def test_a_request_without_a_reference_is_answered_too(driven: Driven) -> None:
    await pay(driven, 12)
    (answer,) = await answers(driven, 1)
    assert "X-Reference" not in tags(answer)


@given(st.lists(st.from_regex(r"[0-9]{1,6}-[0-9a-f]{16}", fullmatch=True), max_size=300))
def test_receipts_of_an_answer_fit_a_tag(receipts: list[str]) -> None:
    shown = shown_receipts(receipts)
    named = [] if shown is None else shown.split(",")
    assert named == receipts[: len(named)]
    assert len(shown or "") <= MAX_RECEIPTS_CHARACTERS
    assert len(named) == len(receipts) or len(",".join(receipts[: len(named) + 1])) > MAX_RECEIPTS_CHARACTERS


async def test_who_pays_most_for_what_they_ask_is_first(tmp_path: Path) -> None:
    shelf = Shelf()
    gate = gates(shelf)
    async with opened(tmp_path, shelf, has_herd=True, n_workers=1) as driven:
        await driven.units.mint(OWNER, 10_000)
        for number, quantity in enumerate((12, 24, 12, 36, 24, 18)):
            await pay(driven, quantity, f"a b c d e {number}")

        async def queued() -> bool | None:
            return (await info(driven))["Queue-Length"] == "5" or None

        await until_so(queued)
        gate.set()

        async def asked() -> bool | None:
            return len(shelf.model.prompts) == 6 or None

        await until_so(asked)
        assert [prompt[-1:] for prompt in shelf.model.prompts] == [b"0", b"3", b"1", b"4", b"5", b"2"]
        assert (await info(driven))["Last-Multiplier"] == "1"


async def test_all_idle_workers_work(tmp_path: Path) -> None:
    shelf = Shelf()
    gate = gates(shelf)
    async with opened(tmp_path, shelf, has_herd=True, n_workers=4) as driven:
        await driven.units.mint(OWNER, 10_000)
        for number in range(4):
            await pay(driven, 12, f"a b c d e {number}")

        async def all_begun() -> bool | None:
            return len(shelf.model.prompts) == 4 or None

        await until_so(all_begun)
        gate.set()
        assert len(await answers(driven, 4)) == 4


@pytest.mark.parametrize(
    ("quantity", "prompt", "n", "reason"),
    [
        (11, QUESTION, "5", "12 is needed"),
        (12, " ", "5", "X-Prompt"),
        (12, "", "5", "X-Prompt"),
        (1, "", "-1", "X-Prompt"),
        (12, QUESTION, "-1", "X-Tokens"),
        (12, QUESTION, "0", "X-Tokens"),
        (12, QUESTION, "2049", "X-Tokens"),
        (12, QUESTION, "five", "X-Tokens"),
        (12, QUESTION, "", "X-Tokens"),
        (12, QUESTION, "1e3", "X-Tokens"),
    ],
)
async def test_what_cannot_be_answered_is_paid_back(
    driven: Driven, quantity: int, prompt: str, n: str, reason: str
) -> None:
    await pay(driven, quantity, prompt, n, X_Reference="r")

    async def back() -> bool | None:
        return await balances(driven) == (10_000, 0) or None

    await until_so(back)
    (refund,) = await sent(driven, HERDER, TOKEN)
    found = tags(refund)
    assert (found["Action"], found["Recipient"], found["Quantity"]) == ("Transfer", OWNER, str(quantity))
    assert reason in found["X-Reason"]
    assert found["X-Reference"] == "r"
    about = await info(driven)
    assert (about["Last-Multiplier"], about["Queue-Length"]) == ("1", "0")


async def test_overpaying_is_no_price_for_others(driven: Driven) -> None:
    await driven.units.mint(OWNER, 10**30)
    await pay(driven, 10**30)
    await answers(driven, 1)
    assert (await info(driven))["Last-Multiplier"] == "1000"


async def test_a_worker_that_fails_is_tried_once_more_and_paid_back(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.model.fails = 1
    async with opened(tmp_path, shelf, has_herd=True, n_workers=1) as driven:
        await driven.units.mint(OWNER, 100)
        await pay(driven, 12)
        await answers(driven, 1)
        assert await balances(driven) == (88, 12)
        shelf.model.fails = 2
        await pay(driven, 12, X_Reference="2")

        async def back() -> bool | None:
            return (await balances(driven) == (88, 12) and not shelf.model.fails) or None

        await until_so(back)
        await pay(driven, 12)
        assert len(await answers(driven, 2)) == 2  # and the worker works on


async def test_a_worker_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async with opened(tmp_path, Shelf(), has_herd=True, n_workers=0, lease_ms=1) as driven:
        await driven.units.mint(OWNER, 100)
        silent = [await driven.program("Handlers.add('Inference', function() end)", owner=NODE) for _ in range(2)]
        for worker in silent:
            await driven.send(HERDER, "Add-Worker", owner=NODE, Worker=worker)
        await pay(driven, 12)

        async def back() -> bool | None:
            return await balances(driven) == (100, 0) or None

        await until_so(back)
        (refund,) = await sent(driven, HERDER, TOKEN)
        assert tags(refund)["X-Reason"] == "no worker answered in time"
    async with opened(tmp_path, Shelf(), has_herd=True, n_workers=0) as driven:
        late = f"Send({{ Target = '{HERDER}', Action = 'Inference-Response', Data = 'late' }})"
        await driven.send(silent[0], "Eval", late, owner=NODE)
        await pay(driven, 12)

        async def given() -> bool | None:  # to the one that has spoken again
            return len(await sent(driven, HERDER, silent[0])) == 2 or None

        await until_so(given)
        assert await sent(driven, HERDER) == []


async def test_only_the_owner_has_workers_and_only_workers_answer(driven: Driven) -> None:
    thief = await driven.program(f"Send({{ Target = '{HERDER}', Action = 'Add-Worker', Worker = ao.id }})")
    await driven.send(HERDER, "Add-Worker", Worker=thief)
    await driven.send(HERDER, "Inference-Response", "x", X_Reference="1.1")
    await driven.send(HERDER, "Credit-Notice", Sender=OWNER, Quantity="1000", X_Prompt=QUESTION, X_Tokens="5")
    assert (await info(driven))["Queue-Length"] == "0"
    assert await sent(driven, HERDER, thief) == []
    assert await sent(driven, HERDER, WORKERS[0]) == []


async def test_a_worker_works_for_its_herder_and_obeys_its_owner_alone(driven: Driven) -> None:
    """All processes' messages are signed by the node, which is the owner of the worker."""
    (worker,) = WORKERS[:1]
    await pay(driven, 12)
    await answers(driven, 1)
    thief = await driven.program(
        f"""Send({{ Target = '{worker}', Action = 'Init', ['Model-ID'] = 'another' }})
        Send({{ Target = '{worker}', Action = 'Inference', Tokens = '5', Data = 'for nothing' }})"""
    )
    slot = await driven.units.current_slot(worker)
    assert (await driven.heard(worker, slot)).result.messages == ()
    assert (await driven.heard(worker, slot - 1)).result.messages == ()
    assert await sent(driven, worker, thief) == []
    await pay(driven, 12)
    assert [tags(answer)["Action"] for answer in await answers(driven, 2)] == ["Inference-Response"] * 2


@pytest.mark.parametrize("by_a_program", [False, True])
async def test_no_message_for_another_process_moves_money_or_workers(driven: Driven, by_a_program: bool) -> None:
    """Anybody may assign any message: a victim's for another token, or a program's own, which the node signs."""
    mine = f"Send({{ Target = ao.id, Action = 'Mint', Recipient = '{THIEF}', Quantity = '1000' }}) "
    more = "Send({ Target = ao.id, Action = 'Add-Worker', Worker = ao.id }) "
    trap = await driven.program(mine + more, owner=THIEF)
    victims = await driven.send(trap, "Transfer", Recipient=THIEF, Quantity="100")
    forged = [(await driven.heard(trap, slot)).place.message for slot in (1, 2)]
    wanted = [(TOKEN, victims.place.message), (TOKEN, forged[0]), (HERDER, forged[1]), (WORKERS[0], forged[0])]
    for target, id in wanted:
        if by_a_program:
            await driven.send(
                trap, "Eval", f"Assign({{ Processes = {{ '{target}' }}, Message = '{id}' }})", owner=THIEF
            )
        else:
            await driven.units.assign(target, id)
        done = await driven.units.result(target, id, wait_seconds=300)
        assert done is not None
        assert done.result.messages == ()
        assert "not trusted" in done.result.output.decode()
    assert await balances(driven) == (10_000, 0)
    assert await driven.units.balance(THIEF) == 0
    await pay(driven, 12)
    (answer,) = await answers(driven, 1)
    assert answer.data


async def test_a_program_is_a_worker_too(tmp_path: Path) -> None:
    async with opened(tmp_path, Shelf(), has_herd=True, n_workers=0) as driven:
        await driven.units.mint(OWNER, 100)
        worker = await driven.program(
            f"""Llama.load('{MODEL}')
            Handlers.add('Inference', function(m)
              Llama.setPrompt(m.Data)
              m.reply({{ Action = 'Inference-Response', Data = Llama.run(tonumber(m.Tokens)) }})
            end)""",
            owner=NODE,
        )
        await driven.send(HERDER, "Add-Worker", owner=NODE, Worker=worker)
        await pay(driven, 12, "a b c d e f", X_Reference="mine")
        (answer,) = await answers(driven, 1)
        assert (answer.data, tags(answer)["X-Reference"]) == (b"ghijk", "mine")


async def test_the_token(driven: Driven) -> None:
    async def reply(action: str, owner: str = OWNER, **named: str) -> dict[str, str]:
        return dict(tags((await driven.send(TOKEN, action, owner=owner, **named)).result.messages[0]))

    found = await reply("Info")
    assert (found["Name"], found["Ticker"], found["Denomination"]) == ("Wrapped AR", "wAR", "12")
    found = await reply("Balance", Reference="3")
    assert (found["Balance"], found["Account"], found["X-Reference"]) == ("10000", OWNER, "3")
    assert (await reply("Balance", Recipient="nobody"))["Balance"] == "0"
    for quantity in ("10001", "0", "-1", "1.5", "", "x"):
        found = await reply("Transfer", Recipient="a", Quantity=quantity)
        assert found["Action"] == "Transfer-Error"
    assert "Insufficient" in (await reply("Transfer", Recipient="a", Quantity="10001"))["Error"]
    assert (await reply("Mint", Recipient="a", Quantity="5"))["Action"] == "Mint-Error"
    cast = await driven.send(TOKEN, "Transfer", Recipient="a", Quantity="5", Cast="true")
    assert cast.result.messages == ()
    assert await driven.units.balance("a") == 5
    big = 10**60
    await driven.units.mint("whale", big)
    await reply("Transfer", "whale", Recipient="a", Quantity=str(big - 1))
    assert await driven.units.balance("a") == big + 4
    with pytest.raises(BadRequest):
        await driven.units.mint("a", 0)
    dry = await driven.units.dry_run(TOKEN, message(TOKEN, "Transfer", Recipient="b", Quantity="5"))
    assert len(dry.messages) == 2
    assert await driven.units.balance("b") == 0


async def test_the_money_is_there_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, Shelf(), has_herd=True, n_workers=1) as driven:
        await driven.units.mint(OWNER, 500)
    settings = Settings(tmp_path, NODE, Shelf(), model=MODEL, n_workers=1)
    units = await Units.open(settings)
    assert await units.balance(OWNER) == 500
    await units.aclose()


async def test_the_queue_is_there_after_a_restart_in_its_order(tmp_path: Path) -> None:
    async with opened(tmp_path, Shelf(), has_herd=True, n_workers=0) as driven:
        await driven.units.mint(OWNER, 10_000)
        for number, quantity in enumerate((12, 24, 12, 36, 24, 18)):
            await pay(driven, quantity, f"a b c d e {number}", X_Reference=str(number))

        async def queued() -> bool | None:
            return (await info(driven))["Queue-Length"] == "6" or None

        await until_so(queued)
        before = await driven.units.results(HERDER, limit=100)
    async with opened(tmp_path, Shelf(), has_herd=True, n_workers=0) as driven:
        assert await driven.units.results(HERDER, limit=100) == before
        assert (await info(driven))["Queue-Length"] == "6"
    async with opened(tmp_path, Shelf(), has_herd=True, n_workers=1) as driven:

        async def answered() -> list[str] | None:
            found = [tags(each) for each in await sent(driven, HERDER)]
            order = [each["X-Reference"] for each in found if each["Action"] == "Inference-Response"]
            return order if len(order) == 6 else None

        assert await until_so(answered) == ["3", "1", "4", "5", "0", "2"]
