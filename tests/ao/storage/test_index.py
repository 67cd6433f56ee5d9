"""An index finds what walking all records finds, and is the same after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.ao.arweave.transactions import sign_transaction
from canister.ao.encoding import to_base64url
from canister.ao.signing.items import sign_item
from canister.ao.signing.wallets import ArweaveWallet, Ed25519Wallet
from canister.ao.storage.index import Index, block_at
from canister.ao.storage.items import ItemStore, StoredItem
from canister.ao.storage.queries import Filter, Record, answer, matches
from canister.herd.objects.folder import FolderObjects
from tests.ao.storage.test_items import blocks

WALLETS = [Ed25519Wallet.generate() for _ in range(3)]
TARGETS = [b"", bytes(32), bytes([1] * 32)]
NAMES, VALUES = [b"Type", b"Action", b"Long"], [b"Process", b"Message", b"x" * 500]


def indexed() -> tuple[Index, list[Record]]:
    index, records = Index(), []
    for i in range(60):
        tags = [(NAMES[i % 3], VALUES[i % 7 % 3]), (NAMES[i % 2], VALUES[i % 5 % 3])]
        item = sign_item(WALLETS[i % 3], b"%d" % i, tags, target=TARGETS[i % 5 % 3])
        records.append(index.add_item(StoredItem(item.head, 0, 1, 0.0), 1000.0 + 50 * i))
    return index, records


INDEX, RECORDS = indexed()
OWNERS = st.frozensets(st.sampled_from([*(wallet.address for wallet in WALLETS), "unknown"]), max_size=2)
TAGS = st.lists(
    st.tuples(st.sampled_from([*NAMES, b"None"]), st.frozensets(st.sampled_from([*VALUES, b"no"]), max_size=2)),
    max_size=2,
)
FILTERS = st.builds(
    Filter,
    ids=st.frozensets(st.sampled_from([*(record.id for record in RECORDS[:5]), "unknown"]), max_size=3),
    owners=OWNERS,
    recipients=st.frozensets(st.sampled_from([to_base64url(target) for target in TARGETS[1:]]), max_size=2),
    tags=TAGS.map(tuple),
    min_height=st.integers(0, 40),
)


@settings(max_examples=200, deadline=None)
@given(wanted=FILTERS)
def test_it_finds_what_walking_all_finds(wanted: Filter) -> None:
    expected = [record for record in reversed(RECORDS) if matches(record, wanted)]
    assert [record for record in INDEX.find(wanted) if matches(record, wanted)] == expected


def test_what_comes_twice_is_there_once() -> None:
    index = Index()
    item = sign_item(WALLETS[0], b"data")
    stored = StoredItem(item.head, 0, 4, 0.0)
    first = index.add_item(stored, 1.0)
    assert index.add_item(stored, 500.0) is first
    assert len(index) == 1


def test_blocks_follow_the_clock() -> None:
    assert block_at(1_700_000_000.0).height == 1_700_000_000 // 120
    assert block_at(119.9) == block_at(0.0) != block_at(120.0)


@pytest.mark.anyio
async def test_a_restart_finds_all_again(tmp_path: Path, rsa_wallet: ArweaveWallet) -> None:
    store = ItemStore(await FolderObjects.open(tmp_path))
    item = sign_item(WALLETS[0], b"data", [(b"Type", b"Process")], target=bytes(32))
    await store.put_item(blocks(item.to_bytes()))
    transaction = sign_transaction(rsa_wallet, tags=[(b"Type", b"Model")], quantity=5)
    await store.put_transaction(transaction.to_json())
    index = await Index.of(ItemStore(await FolderObjects.open(tmp_path)))
    assert len(index) == 2
    query = """{ transactions(tags: {name: "Type", values: ["Process", "Model"]}) {
        edges { node { id recipient owner { address } } }
    } }"""
    told = answer({"query": query}, index.find)
    nodes = [edge["node"] for edge in told["data"]["transactions"]["edges"]]  # type: ignore[index]
    assert {node["id"]: (node["recipient"], node["owner"]["address"]) for node in nodes} == {
        item.id: (to_base64url(bytes(32)), WALLETS[0].address),
        transaction.id: ("", rsa_wallet.address),
    }
