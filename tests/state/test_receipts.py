"""The chain of records in the database: appended with whatever else commits, proven from any kept record, pruned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from canister.ic import principal
from canister.ic.receipts import record as records
from canister.ic.receipts import tree
from canister.ic.receipts.document import terms_hash
from canister.ic.receipts.record import ChatPart, Record
from canister.ic.receipts.tree import ProofError
from canister.runtime.canister import Canister
from canister.state.receipts import PRUNED_AT_ONCE, Added, Contents, Receipts
from tests.harness import CONTROLLER, Harness, canister_in, someone

pytestmark = pytest.mark.anyio

TERMS = b"\xa0"
ME = principal.from_text(CONTROLLER)
CHAT = ChatPart("a.cache", 7, *[0] * 8, -1, False, False, bytes(32), bytes(32))


@pytest.fixture(scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path_factory.mktemp("receipts")) as found:
        yield found


def made(n: int, terms: bytes = TERMS, chat: ChatPart | None = None) -> Record:
    hashes = terms_hash(terms), bytes(32), bytes(32)
    return Record(0, n, records.NO_HASH, hashes[0], ME, "x", False, "ok", hashes[1], hashes[2], 0, n, {"base": n}, chat)


async def append(canister: Canister, chain: Receipts, *wanted: Record, terms: bytes = TERMS) -> list[Added]:
    """All in one commit, as calls that end at the same time are."""
    transaction = canister.stable.begin()
    added = [chain.add(transaction, record, terms) for record in wanted]
    await canister.commit(transaction)
    return added


async def test_that_records_follow_each_other_and_are_proven(harness: Harness) -> None:
    canister, chain = harness.canister, harness.canister.receipts
    first = chain.size
    await append(canister, chain, *(made(n) for n in range(1, 20)))
    size, root = chain.head()
    assert size == first + 19
    previous = None
    for index in range(first, size):
        found = chain.find(index)
        assert found is not None
        leaf = tree.leaf_hash(found.record)
        assert (found.size, found.root, found.terms) == (size, root, TERMS)
        assert tree.root_from(leaf, index, size, found.path) == root
        record = records.decode(found.record)
        assert record.index == index
        assert previous in (None, record.previous)
        previous = leaf


async def test_that_a_call_that_is_undone_leaves_none(harness: Harness) -> None:
    canister, chain = harness.canister, harness.canister.receipts
    before = chain.head()
    transaction = canister.stable.begin()
    chain.add(transaction, made(1), TERMS)
    await canister.rollback(transaction)
    assert chain.head() == before


async def test_that_every_update_has_one_and_failures_too(harness: Harness) -> None:
    chain = harness.canister.receipts
    before = chain.size
    done = await harness.reply("set_max_tokens", {"max_tokens_update": 5, "max_tokens_query": 5})
    assert "nope" in await harness.fails("load_model", {"args": ["--model", "nope"]})
    await harness.call("health")
    outcomes = [records.decode(chain.record(index) or b"").outcome for index in range(before, chain.size)]
    assert outcomes == ["ok", "err"]
    assert done.charge is not None
    assert done.charge.receipt == f"{before}-{tree.leaf_hash(chain.record(before) or b'').hex()}"


async def test_that_calls_alike_share_their_terms(harness: Harness) -> None:
    chain, limits = harness.canister.receipts, {"max_tokens_update": 5, "max_tokens_query": 5}
    for _ in range(2):
        await harness.call("set_max_tokens", limits)
    one, other = (records.decode(chain.record(chain.size - n) or b"").terms for n in (1, 2))
    assert one == other
    found = chain.find(chain.size - 1)
    assert found is not None
    assert terms_hash(found.terms) == one


async def test_that_a_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as first:
        await append(first.canister, first.canister.receipts, *(made(n) for n in range(5)))
        old = first.canister.receipts.head()
    async with canister_in(tmp_path) as second:
        chain = second.canister.receipts
        assert chain.head() == old
        await append(second.canister, chain, made(9, b"\xa1"), terms=b"\xa1")
        size, root, proof = chain.consistency(old[0])
        tree.check_consistency(old[0], old[1], size, root, proof)


async def test_that_old_ones_go_and_what_is_kept_is_still_proven(tmp_path: Path) -> None:
    async with canister_in(tmp_path, keep_receipts=40) as harness:
        canister, chain = harness.canister, harness.canister.receipts
        heads = {}
        for n in range(30):
            await append(canister, chain, *(made(10 * n + m) for m in range(10)))
            heads[chain.size] = chain.head()[1]
        size, root = chain.head()
        kept = [index for index in range(size) if chain.record(index) is not None]
        assert len(kept) < 40 + PRUNED_AT_ONCE + 10
        for index in range(size - 40, size):
            found = chain.find(index)
            assert found is not None
            assert tree.root_from(tree.leaf_hash(found.record), index, size, found.path) == root
        for old in (size - 10, size - 30):
            _, _, proof = chain.consistency(old)
            tree.check_consistency(old, heads[old], size, root, proof)
        assert chain.find(1) is None
        with pytest.raises(ProofError, match="kept no more"):
            chain.consistency(10)


async def test_that_contents_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        canister = harness.canister
        chain = Receipts(canister.database, 0, 8000)
        for n in range(40):
            transaction = canister.stable.begin()
            chain.add(transaction, made(n), TERMS, Contents(bytes(400), bytes(50), bytes(50)))
            await canister.commit(transaction)
        kept = [index for index in range(chain.size) if chain.contents(index) is not None]
        assert kept == [*range(kept[0], chain.size)]
        assert 14 <= len(kept) <= 16
        assert chain.find(0) is not None
        again = Receipts(canister.database, 0, 1000)  # a smaller bound counts from the next call on
        transaction = canister.stable.begin()
        again.add(transaction, made(40), TERMS, Contents(bytes(400), b"", b""))
        await canister.commit(transaction)
        assert [index for index in range(chain.size) if chain.contents(index) is not None] == [39, 40]


async def test_that_the_calls_of_a_chat_are_found_and_no_others(harness: Harness) -> None:
    canister, chain = harness.canister, harness.canister.receipts
    added = await append(canister, chain, made(1, chat=CHAT), made(2), made(3, chat=CHAT))
    numbers = [number for number, _ in chain.of_chat(ME, "a.cache", 1 << 62, 10)]
    assert numbers == [added[2].index, added[0].index]
    assert chain.of_chat(principal.from_text(someone(1)), "a.cache", 1 << 62, 10) == []
    assert [number for number, _ in chain.of_chat(ME, "a.cache", added[2].index, 10)] == [added[0].index]
