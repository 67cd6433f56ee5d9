"""Bytes by their SHA-256: found as they were, or not at all."""

from __future__ import annotations

import hashlib
import os

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


async def test_what_is_not_there_or_another_is_told(objects: Objects) -> None:
    with pytest.raises(NotFound):
        await blobs.get(objects, SHA256, len(DATA))
    await objects.create(blob_key(SHA256), once(DATA[:-1]))
    with pytest.raises(ObjectDamaged, match=SHA256):
        await blobs.get(objects, SHA256, len(DATA))
