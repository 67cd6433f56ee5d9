"""What strangers may store is bounded, whatever they store it as; what does not stay takes nothing of it away."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from canister.ao.arweave.chunks import tree_of
from canister.ao.arweave.transactions import PostedChunk, sign_transaction
from canister.ao.encoding import Malformed, WrongSignature
from canister.ao.signing.items import Item, sign_item
from canister.ao.signing.wallets import ArweaveWallet, Ed25519Wallet
from canister.ao.storage.archive import Archive
from canister.ao.storage.room import BoundedObjects
from canister.ao.storage.uploads import MIN_PART_BYTES, Uploads
from canister.errors import StorageFull
from canister.herd.objects.folder import FolderObjects

pytestmark = pytest.mark.anyio
MOST = 400_000


async def once(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 50_000):
        yield data[start : start + 50_000]


def item(n_bytes: int) -> Item:
    return sign_item(Ed25519Wallet.generate(), random.Random(n_bytes).randbytes(n_bytes))


async def opened(folder: Path, most: int | None = MOST) -> Archive:
    return await Archive.open(await FolderObjects.open(folder), most)


def used(archive: Archive) -> int:
    assert isinstance(archive.objects, BoundedObjects)
    return archive.objects.used


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
async def archive(tmp_path: Path) -> Archive:
    return await opened(tmp_path)


async def test_items_count_once_they_stay(archive: Archive, tmp_path: Path) -> None:
    made = item(100_000).to_bytes()
    for _ in range(9):
        await archive.add_item(once(made), 1 << 20)
        with pytest.raises(WrongSignature):
            await archive.add_item(once(item(90_000).to_bytes()[:-1] + b"?"), 1 << 20)
    assert used(archive) == on_disk(tmp_path) == len(made)
    with pytest.raises(StorageFull, match=str(MOST)):
        await archive.add_item(once(item(350_000).to_bytes()), 1 << 20)
    assert used(archive) == on_disk(tmp_path)
    await archive.add_item(once(item(200_000).to_bytes()), 1 << 20)
    assert used(await opened(tmp_path)) == used(archive) == on_disk(tmp_path)


async def test_transactions_count_by_the_chunks_that_are_there(
    archive: Archive, tmp_path: Path, rsa_wallet: ArweaveWallet
) -> None:
    data = random.Random(1).randbytes(100_000)
    tree = tree_of(data)
    signed = sign_transaction(rsa_wallet, data_root=tree.root, data_bytes=len(data))
    (proven,) = tree.chunks
    chunk = PostedChunk(tree.root, len(data), proven.offset, proven.proof, data)
    for _ in range(9):
        await archive.add_transaction(signed.to_json())
        await archive.add_chunk(chunk.to_json())
        with pytest.raises((Malformed, WrongSignature)):
            await archive.add_transaction({**signed.to_json(), "quantity": "5", "data": "A" * 300_000})
    assert len(data) < used(archive) == on_disk(tmp_path) < len(data) + 10_000
    huge = sign_transaction(rsa_wallet, data_root=bytes(32), data_bytes=1 << 50)
    await archive.add_transaction(huge.to_json())
    again = await opened(tmp_path)
    assert used(again) == used(archive) == on_disk(tmp_path)
    await again.add_item(once(item(200_000).to_bytes()), 1 << 20)


async def test_parts_of_uploads_count_until_they_are_gone(tmp_path: Path) -> None:
    archive = await opened(tmp_path)
    uploads = Uploads(archive)
    one, other = await uploads.begin(MIN_PART_BYTES), await uploads.begin(MIN_PART_BYTES)
    for _ in range(3):
        await uploads.put(one, 0, once(bytes(300_000)))
    with pytest.raises(StorageFull):
        await uploads.put(other, 0, once(bytes(300_000)))
    assert used(archive) == on_disk(tmp_path)
    assert used(await opened(tmp_path)) == used(archive)
    await uploads.finish(one)
    await uploads._finishing[one]
    ended = await uploads.status(one)
    assert ended is not None
    assert ended.error
    await uploads.put(other, 0, once(bytes(300_000)))
    assert used(archive) == on_disk(tmp_path)
