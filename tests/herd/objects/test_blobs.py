"""Bytes by their SHA-256: found as they were, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from canister.errors import NotFound
from canister.herd.objects import blobs
from canister.herd.objects.objects import ObjectDamaged, Objects, blob_key, once

pytestmark = pytest.mark.anyio

DATA = os.urandom(3 << 20)
SHA256 = hashlib.sha256(DATA).hexdigest()


async def test_bytes_come_back_by_their_hash(objects: Objects) -> None:
    assert await blobs.put(objects, DATA) == SHA256 == await blobs.put(objects, DATA)
    assert await blobs.get(objects, SHA256, len(DATA)) == DATA
    with pytest.raises(ObjectDamaged, match="more than"):
        await blobs.get(objects, SHA256, len(DATA) - 1)


async def test_a_file_comes_back_by_its_hash(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(DATA)
    assert await blobs.put_file(objects, tmp_path / "model") == SHA256
    (tmp_path / "copy").write_bytes(b"an older one")
    await blobs.get_file(objects, SHA256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["copy", "model"]


async def test_what_is_not_there_or_another_changes_no_file(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(b"an older one")
    with pytest.raises(NotFound):
        await blobs.get_file(objects, SHA256, tmp_path / "copy")
    await objects.create(blob_key(SHA256), once(DATA[:-1]))
    with pytest.raises(ObjectDamaged, match=SHA256):
        await blobs.get_file(objects, SHA256, tmp_path / "copy")
    with pytest.raises(ObjectDamaged, match=SHA256):
        await blobs.get(objects, SHA256, len(DATA))
    assert (tmp_path / "copy").read_bytes() == b"an older one"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["copy"]


async def test_a_file_of_another_hash_is_not_put(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(DATA + b"x")
    with pytest.raises(ObjectDamaged, match="model is not the file"):
        await blobs.put_file(objects, tmp_path / "model", SHA256)
    assert await objects.size(blob_key(SHA256)) is None
