"""The chain of receipts in the journal: one place for each call that was settled, proofs of all of them, pruned."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Connection

from canister.api.herd_wire import Receipted
from canister.herd.journal import Journal, Settled
from canister.ic.receipts import record as records
from canister.ic.receipts import tree
from canister.ic.receipts.document import parse_id, terms_hash
from canister.ic.receipts.record import NO_HASH, ChatPart, Record
from canister.ic.receipts.values import encoded
from canister.state.receipts import Contents
from tests.herd.journal.parts import CANISTER, Talk, job_id, new_job, path_of, settled

pytestmark = pytest.mark.anyio

ALICE, BOB = b"\x01\x02", b"\x03"
TERMS = encoded({"canister": b"\x04", "worker": "w1"})


def receipted(n: int, *, caller: bytes = ALICE, cache: str = "", terms: bytes = TERMS, **more: bytes) -> Receipted:
    """A record such as a worker makes; `n` tells it from others."""
    chat = None
    if cache:
        chat = ChatPart(cache, 7, 0, 0, 3, 1, 1, 0, 0, 0, -1, False, False, NO_HASH, bytes([n % 256]) * 32)
    of = (caller, "run_update", False, "ok")
    made = Record(0, n, NO_HASH, terms_hash(terms), *of, NO_HASH, NO_HASH, 10, 20, {"base": 5}, chat)
    return Receipted(records.encode(made), terms, **more)


def passing(n: int, epoch: int, receipt: Receipted, canister: str = CANISTER) -> Settled:
    """The end of a call that nobody asks for again."""
    job = new_job(n, canister=canister)
    return settled(n, epoch=epoch, fence=epoch << 32 | n + 1, new=job, is_passing=True, receipt=receipt)


async def settle(journal: Journal, *steps: Settled) -> list[str]:
    """The ids of their receipts."""
    outcomes = await asyncio.gather(*map(journal.settle, steps))
    answers = [outcome.answer for outcome in outcomes]
    return [answer.receipt for answer in answers if answer is not None]


async def begun(journal: Journal) -> int:
    epoch = await journal.lead("test", "http://test")
    assert epoch is not None
    return epoch


async def test_each_settled_call_has_its_place(journal: Journal) -> None:
    epoch, chain = await begun(journal), journal.receipts(CANISTER)
    ids = [id for n in range(3) for id in await settle(journal, passing(n, epoch, receipted(n)))]
    together = [passing(n, epoch, receipted(n, caller=BOB)) for n in range(3, 21)]
    ids += await settle(journal, *together)
    assert sorted(parse_id(id)[0] for id in ids) == list(range(21))
    assert chain.size == 21
    previous, leaves = NO_HASH, []
    for id in sorted(ids, key=lambda id: parse_id(id)[0]):
        index, leaf = parse_id(id)
        found = chain.find(index, since=5)
        assert found is not None
        assert tree.leaf_hash(found.record) == leaf
        record = records.decode(found.record)
        assert (record.index, record.previous, found.terms) == (index, previous, TERMS)
        assert record.fence == epoch << 32 | record.time_ns + 1
        assert tree.root_from(leaf, index, found.size, found.path) == found.root
        tree.check_consistency(5, found.since_root, found.size, found.root, found.consistency)
        previous = leaf
        leaves.append(leaf)
    nodes: dict[tuple[int, int], bytes] = {(0, n): leaf for n, leaf in enumerate(leaves)}
    for n, leaf in enumerate(leaves):
        for level, node in enumerate(tree.completed(n, leaf, lambda level, n: nodes[level, n]), 1):
            nodes[level, n >> level] = node
    assert chain.consistency(21)[1] == tree.root(21, lambda level, n: nodes[level, n])
    assert [number for number, _ in chain.newest(ALICE, 1 << 62, 10)] == [2, 1, 0]
    assert len(chain.newest(BOB, 1 << 62, 10)) == 10
    assert chain.find(21) is None


async def test_a_call_that_is_settled_twice_has_one_record(journal: Journal) -> None:
    epoch, chain = await begun(journal), journal.receipts(CANISTER)
    await journal.accept(new_job(1))
    await journal.assign(job_id(1), "w1", epoch << 32 | 1, epoch)
    first = replace(settled(1, epoch=epoch, fence=epoch << 32 | 1), receipt=receipted(1))
    again = replace(settled(1, epoch=epoch, fence=epoch << 32 | 2), receipt=receipted(2))
    stale = replace(settled(2, epoch=epoch - 1, fence=9, new=new_job(2)), receipt=receipted(3))
    done = await journal.settle(first)
    known, refused = await journal.settle(again), await journal.settle(stale)
    assert (done.outcome, known.outcome, refused.outcome) == ("done", "known", "stale")
    assert done.answer is not None
    assert known.answer == done.answer
    assert chain.size == 1
    row = await journal.find(job_id(1))
    assert row is not None
    assert row.answer == done.answer
    assert parse_id(done.answer.receipt)[0] == 0


async def test_a_chat_keeps_its_calls_whoever_ran_them(journal: Journal) -> None:
    epoch, chain = await begun(journal), journal.receipts(CANISTER)
    talk = Talk(path_of("a.cache"))
    for n in range(4):
        other = TERMS_OF[n % 2]
        step = replace(passing(n, epoch, other), chats=(talk.change([n]),), worker=f"w{n % 2}")
        await settle(journal, step)
    assert [number for number, _ in chain.of_chat(ALICE, "a.cache", 1 << 62, 10)] == [3, 2, 1, 0]
    assert [number for number, _ in chain.of_chat(ALICE, "a.cache", 3, 2)] == [2, 1]
    assert chain.of_chat(BOB, "a.cache", 1 << 62, 10) == []
    workers = [found.terms for n in range(4) if (found := chain.find(n)) is not None]
    assert workers == [receipt.terms for receipt in TERMS_OF] * 2
    kept = await asyncio.to_thread(journal.tokens, CANISTER, "2vxsx-fae", path_of("a.cache"))
    assert kept is not None
    assert [int(token) for token in kept.tokens] == [0, 1, 2, 3]


TERMS_OF = [receipted(9, cache="a.cache", terms=encoded({"worker": f"w{n}"})) for n in range(2)]


async def test_canisters_have_chains_of_their_own(journal: Journal) -> None:
    epoch = await begun(journal)
    steps = [passing(n, epoch, receipted(n), canister=name) for n, name in enumerate(["a", "b", "a", "b", "b"])]
    await settle(journal, *steps)
    assert (journal.receipts("a").size, journal.receipts("b").size, journal.receipts("c").size) == (2, 3, 0)


async def test_contents_are_kept_where_the_worker_sends_them(journal: Journal) -> None:
    epoch, chain = await begun(journal), journal.receipts(CANISTER)
    await settle(journal, passing(0, epoch, receipted(0)))
    await settle(journal, passing(1, epoch, receipted(1, words=b"1234", argument=b"a", output=b"o")))
    assert chain.contents(0) is None
    assert chain.contents(1) == Contents(b"1234", b"a", b"o")


@pytest.mark.parametrize("sent", [Receipted(b"nonsense", TERMS), replace(receipted(1), terms=b"other")])
async def test_what_is_no_record_spoils_no_call(journal: Journal, sent: Receipted) -> None:
    epoch = await begun(journal)
    assert await settle(journal, passing(0, epoch, sent)) == [""]
    assert [parse_id(id)[0] for id in await settle(journal, passing(1, epoch, receipted(1)))] == [0]


async def test_the_newest_are_kept_and_prove_themselves(journal: Journal) -> None:
    epoch, chain = await begun(journal), journal.receipts(CANISTER)
    await settle(journal, *(passing(n, epoch, receipted(n)) for n in range(45)))
    size, root, _ = chain.consistency(0)
    await journal.purge(0, keep_receipts=10)
    assert chain.find(20) is None
    assert chain.consistency(0)[:2] == (size, root)
    await settle(journal, *(passing(n, epoch, receipted(n)) for n in range(45, 50)))
    for n in range(35, 50):
        found = chain.find(n)
        assert found is not None
        assert tree.root_from(tree.leaf_hash(found.record), n, found.size, found.path) == found.root
    tree.check_consistency(size, root, *chain.consistency(0)[:2], chain.consistency(size)[2])
    await journal.purge(0)
    assert chain.find(35) is not None


async def test_terms_of_a_commit_that_did_not_hold_are_written_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, chain, writer = await begun(journal), journal.receipts(CANISTER), journal._writer
    real = writer._commit

    def fails(connection: Connection) -> None:
        monkeypatch.setattr(writer, "_commit", real)
        raise ValueError("lost")

    monkeypatch.setattr(writer, "_commit", fails)
    with pytest.raises(ValueError, match="lost"):
        await journal.settle(passing(0, epoch, receipted(0)))
    other = encoded({"worker": "w2"})
    await settle(journal, passing(1, epoch, receipted(1, terms=other)))
    for n in range(2, 4):
        await settle(journal, passing(n, epoch, receipted(n)))
    found = [chain.find(n) for n in range(3)]
    assert [one.terms for one in found if one is not None] == [other, TERMS, TERMS]
