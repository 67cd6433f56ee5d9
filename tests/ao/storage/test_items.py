"""Items and transactions in a folder: whole and verified, or not there."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from canister.ao.arweave.chunks import MAX_CHUNK_BYTES, tree_of
from canister.ao.arweave.transactions import PostedChunk, Transaction, sign_transaction
from canister.ao.encoding import Malformed, WrongSignature
from canister.ao.signing.items import Item, sign_item
from canister.ao.signing.wallets import ArweaveWallet, Ed25519Wallet
from canister.ao.storage.items import ItemStore
from canister.errors import NotFound
from canister.herd.objects.folder import FolderObjects

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> ItemStore:
    return ItemStore(await FolderObjects.open(tmp_path / "objects"))


async def blocks(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in stream])


def item(n_bytes: int = 20_000) -> Item:
    return sign_item(Ed25519Wallet.generate(), random.Random(n_bytes).randbytes(n_bytes), [(b"Type", b"Message")])


@pytest.mark.parametrize("n_bytes", [0, 1, 20_000])
@pytest.mark.parametrize("size", [7, 1000, 100_000])
async def test_an_item_comes_back_as_it_was(store: ItemStore, n_bytes: int, size: int) -> None:
    made = item(n_bytes)
    head, is_new = await store.put_item(blocks(made.to_bytes(), size))
    assert (head, is_new) == (made.head, True)
    found = await store.item(made.id)
    assert (found.head, found.data_bytes) == (made.head, n_bytes)
    assert await whole(store.item_data(made.id)) == made.data
    assert await whole(store.item_data(made.id, n_bytes // 2)) == made.data[n_bytes // 2 :]
    assert (await store.put_item(blocks(made.to_bytes())))[1] is False
    assert [each.head.id async for each in store.all_items()] == [made.id]


async def test_a_damaged_item_is_not_there(store: ItemStore, tmp_path: Path) -> None:
    made = item()
    raw = bytearray(made.to_bytes())
    raw[-1] ^= 1
    with pytest.raises(WrongSignature):
        await store.put_item(blocks(bytes(raw)))
    with pytest.raises(WrongSignature):
        await store.put_item(blocks(made.to_bytes()[:-1]))
    with pytest.raises(Malformed):
        await store.put_item(blocks(made.to_bytes()[:50]))
    with pytest.raises(NotFound):
        await store.item(made.id)
    assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


async def test_an_id_is_no_path(store: ItemStore) -> None:
    for id in ("../../etc/passwd", "", "a" * 43 + "/x", "é" * 43):
        with pytest.raises(Malformed, match="is no id"):
            await store.item(id)


async def test_a_transaction_is_complete_when_all_chunks_are_there(store: ItemStore, rsa_wallet: ArweaveWallet) -> None:
    data = random.Random(3).randbytes(2 * MAX_CHUNK_BYTES + 100_000)
    transaction, chunks = posted(rsa_wallet, data)
    await store.put_chunk(chunks[1])  # before its transaction
    told, is_new = await store.put_transaction(transaction.to_json())
    assert (told.has_all, is_new) == (False, True)
    await store.put_chunk(chunks[0])
    assert not (await store.transaction(transaction.id)).has_all
    with pytest.raises(NotFound, match=f"byte {2 * MAX_CHUNK_BYTES} "):
        await whole(store.transaction_data(transaction.id))
    await store.put_chunk(chunks[2])
    assert (await store.transaction(transaction.id)).has_all
    assert await whole(store.transaction_data(transaction.id)) == data
    for start in (1, MAX_CHUNK_BYTES - 1, MAX_CHUNK_BYTES, len(data) - 1, len(data)):
        assert await whole(store.transaction_data(transaction.id, start)) == data[start:]
    assert [each.id async for each, _ in store.all_transactions()] == [transaction.id]


@pytest.mark.parametrize("n_bytes", [0, 10, MAX_CHUNK_BYTES])
async def test_a_small_transaction_has_its_data_with_it(
    store: ItemStore, rsa_wallet: ArweaveWallet, n_bytes: int
) -> None:
    data = bytes(n_bytes)
    transaction, _ = posted(rsa_wallet, data)
    assert (await store.put_transaction(transaction.to_json(data)))[0].has_all
    assert await whole(store.transaction_data(transaction.id)) == data
    assert (await store.put_transaction(transaction.to_json()))[1] is False


async def test_what_does_not_verify_is_not_there(store: ItemStore, rsa_wallet: ArweaveWallet) -> None:
    data = bytes(1000)
    transaction, chunks = posted(rsa_wallet, data)
    with pytest.raises(WrongSignature):
        await store.put_transaction({**transaction.to_json(), "reward": "1"})
    with pytest.raises(Malformed):
        await store.put_chunk(PostedChunk(chunks[0].data_root, 1000, 999, chunks[0].proof, bytes(999) + b"x"))
    with pytest.raises(NotFound):
        await store.transaction(transaction.id)


def posted(wallet: ArweaveWallet, data: bytes) -> tuple[Transaction, list[PostedChunk]]:
    tree = tree_of(data)
    transaction = sign_transaction(wallet, data_root=tree.root if data else b"", data_bytes=len(data))
    chunks = [
        PostedChunk(tree.root, len(data), chunk.offset, chunk.proof, data[chunk.span.start : chunk.span.end])
        for chunk in tree.chunks
    ]
    return transaction, chunks
