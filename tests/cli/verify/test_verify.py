"""`canister verify`: honest calls hold down to their tokens, and each kind of lie is told by its name."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canister import dispatch
from canister.cli.verify.run import Asked, Outcome, verify
from canister.dispatch.receipts import find_receipt
from canister.ic.certificate import RootKey
from canister.ic.receipts import document
from canister.ic.receipts.document import Receipt
from canister.ic.receipts.record import GENERATED
from canister.metering.receipts import instructions_fault
from canister.model_file.gguf import read_gguf
from canister.model_file.shape import read_shape
from tests.harness import CHAT_MODEL, CONTROLLER, GREEDY, Harness, canister_in
from tests.receipt_forge import Forge, Said, told, with_terms, with_word

pytestmark = pytest.mark.anyio

SAMPLED = ("--temp", "0.9", "--top-k", "50", "--repeat-penalty", "1.1", "--seed", "5")


@pytest.fixture(scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path_factory.mktemp("verify")) as found:
        await found.load(CHAT_MODEL, "-c", "512")
        yield found


@pytest.fixture(scope="module")
async def calls(harness: Harness) -> list[Said]:
    """A chat of five calls: cut, sampled with penalties, rolled back."""
    first = harness.canister.receipts.size
    story = "Once upon a time there was a little robot"
    for prompt, flags in (
        (story, (*SAMPLED, "-n", "12")),
        ("", (*SAMPLED, "-n", "9")),
        ("", (*SAMPLED, "-n", "1")),
        (f"{story} who", (*GREEDY, "-n", "10")),
        ("", (*GREEDY, "-n", "6")),
    ):
        await harness.run(prompt, *flags)
        kept = harness.canister.receipts.size - 1
        assert kept >= first
    key = RootKey.generate()
    found = [await receipt(harness, key, number) for number in range(first, first + 5)]
    return [told(one) for one in found]


async def receipt(harness: Harness, key: RootKey, number: int) -> Receipt:
    reply = await find_receipt(harness.canister, key, CONTROLLER, str(number), 0)
    assert isinstance(reply.value, Receipt), reply
    return reply.value


async def run(files: list[Path], **more: Any) -> Outcome:
    return await verify(Asked(files, **{"model": CHAT_MODEL, **more}))


def faults(outcome: Outcome) -> str:
    return "\n".join([*outcome.faults, *(fault for verdict in outcome.verdicts for fault in verdict.faults)])


async def test_that_honest_calls_hold_down_to_their_tokens(calls: list[Said], tmp_path: Path) -> None:
    forge = Forge()
    still = [said for said in calls if said.words]
    assert len(still) >= 2  # those whose chat still has their tokens
    outcome = await run(forge.files(still, tmp_path), root_key=forge.key.public_key_der)
    assert faults(outcome) == ""
    for verdict in outcome.verdicts:
        assert "as the cost model gives" in verdict.cost
        assert "all as the model draws them, decoded together" in verdict.tokens
    alone = await run(forge.files(still, tmp_path), one_by_one=True)
    assert faults(alone) == ""
    assert all("decoded one by one" in verdict.tokens for verdict in alone.verdicts)


async def test_that_without_a_model_no_more_is_said_than_is_known(calls: list[Said], tmp_path: Path) -> None:
    outcome = await run(Forge().files(calls, tmp_path), model=None)
    assert outcome.is_ok
    assert {verdict.tokens for verdict in outcome.verdicts} == {"not looked at: give --model"}
    assert all("which it names" in verdict.signed for verdict in outcome.verdicts)


async def test_that_another_key_or_id_is_told(calls: list[Said], tmp_path: Path) -> None:
    forge = Forge()
    files = forge.files(calls, tmp_path)
    assert "does not count" in faults(await run(files, model=None, root_key=RootKey.generate().public_key_der))
    wrong = document.receipt_id(0, bytes(32))
    assert "has put this one in its place" in faults(await run(files[:1], model=None, ids=[wrong]))


async def test_that_each_lie_is_told_by_its_name(calls: list[Said], tmp_path: Path) -> None:
    still = [said for said in calls if said.words]
    said = still[-1]
    record = said.record
    assert record.chat is not None
    n = record.chat.n_after
    costs = {**record.parts, "generate": record.parts["generate"] + 1}
    lies = {
        "another model: the record names": with_terms(said, model=bytes(32)),
        "the answer is not what this model gives": with_word(said, n - 2, GENERATED | 7),
        "cycles are charged": replace(said, record=replace(record, cycles=record.cycles + 1)),
        "instructions for generate are charged": replace(
            said, record=replace(record, parts=costs, cycles=record.cycles + 1)
        ),
    }
    for number, (name, lie) in enumerate(lies.items()):
        outcome = await run(Forge().files([lie], tmp_path / str(number)))
        assert name in faults(outcome), (name, faults(outcome))


async def test_that_another_temperature_is_found(harness: Harness, tmp_path: Path) -> None:
    await harness.run("The robot said", "--temp", "1.5", "--seed", "3", "-n", "24", cache="hot.cache")
    said = told(await receipt(harness, RootKey.generate(), harness.canister.receipts.size - 1))
    assert faults(await run(Forge().files([said], tmp_path))) == ""
    cold = with_terms(said, sampling={"temperature": "0.2"})
    found = faults(await run(Forge().files([cold], tmp_path)))
    assert "the answer is not what this model gives: token" in found
    assert "and the model draws" in found


async def test_that_terms_of_nonsense_spoil_no_other_receipt(calls: list[Said], tmp_path: Path) -> None:
    """Whoever writes a receipt decides what is in it."""
    honest = [said for said in calls if said.words][-1]
    nonsense = [
        with_terms(honest, rope={"freq_base": "high"}),
        with_terms(honest, rope={"scaling": "none at all"}),
        with_terms(honest, type_k="wide"),
    ]
    outcome = await run(Forge().files([*nonsense, honest], tmp_path))
    *others, verdict = outcome.verdicts
    assert "all as the model draws them" in verdict.tokens
    assert verdict.is_ok
    assert all("not decoded again" in other.tokens for other in others)


@pytest.mark.parametrize(
    "change", [{"type_k": "wide"}, {"n_batch": 0}, {"n_ctx": 0}, {"n_ctx": "512"}, {"n_batch": -1}, {"pages": "none"}]
)
async def test_that_parameters_of_nonsense_are_no_cost(calls: list[Said], change: dict[str, object]) -> None:
    shape, terms = read_shape(read_gguf(CHAT_MODEL)), document.read_terms(calls[0].terms)
    cost = terms["cost"]
    assert isinstance(cost, dict)
    assert instructions_fault(calls[0].record, terms, shape) is None
    assert instructions_fault(calls[0].record, {**terms, "cost": {**cost, **change}}, shape)


async def test_that_a_record_left_out_and_a_fork_are_found(calls: list[Said], tmp_path: Path) -> None:
    forge = Forge()
    left_out = await run(forge.files([calls[0], calls[2]], tmp_path / "out"), model=None)
    assert "a record is missing: call 0 left its chat" in faults(left_out)
    other = replace(calls[1], record=replace(calls[1].record, time_ns=calls[1].record.time_ns + 1))
    one, two = forge.files(calls[:3], tmp_path / "one"), forge.files([calls[0], other, calls[2]], tmp_path / "two")
    assert "the chain is forked: two certified heads" in faults(await run([one[0], two[2]], model=None))
    assert "the chain is forked: there are two records with the number 1" in faults(
        await run([one[1], two[1]], model=None)
    )


async def test_that_calls_of_other_chats_and_methods_hold_too(harness: Harness, tmp_path: Path) -> None:
    first = harness.canister.receipts.size
    await harness.run("Hi", "-n", "3", "--grammar", "root ::= [a-z ]+", cache="bound.cache")
    await harness.call("copy_prompt_cache", {"from": "bound.cache", "to": "copied.cache"})
    await harness.run("", "-n", "3", cache="copied.cache")
    await harness.call("copy_prompt_cache", {"from": "bound.cache", "to": "copied.cache"})
    await harness.run("", "-n", "2", cache="copied.cache")  # it follows the copy, and not the call before
    await harness.fails("run_update", {"args": ["--nonsense"]})
    method = dispatch.find_method(harness.canister, "health")
    await dispatch.execute(harness.canister, method, CONTROLLER, lambda: None)
    n = harness.canister.receipts.size - first
    assert n == 6
    key = RootKey.generate()
    files = []
    for number in range(first, first + n):
        files.append(tmp_path / f"{number}.cbor")
        files[-1].write_bytes(document.to_cbor(await receipt(harness, key, number)))
    outcome = await run(files, root_key=key.public_key_der)
    assert faults(outcome) == ""
    assert time.time_ns() > outcome.verdicts[0].proven.certified_ns  # type: ignore[union-attr]
