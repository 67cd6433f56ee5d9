"""Bytes by their SHA-256: arguments of calls that are too large for a log. Checked whenever they are read."""

from __future__ import annotations

import asyncio
import hashlib

from canister.herd.objects.objects import ObjectDamaged, Objects, blob_key, once, whole


async def put(objects: Objects, data: bytes) -> str:
    """Put bytes there, if they are not; returns their SHA-256."""
    sha256 = await asyncio.to_thread(_sha256, data)
    await objects.create(blob_key(sha256), once(data))
    return sha256


async def get(objects: Objects, sha256: str, max_bytes: int) -> bytes:
    """NotFound when they are not there; ObjectDamaged when something else is, or more than max_bytes."""
    data = await whole(objects, blob_key(sha256), max_bytes)
    if await asyncio.to_thread(_sha256, data) != sha256:
        raise _damaged(sha256)
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _damaged(sha256: str) -> ObjectDamaged:
    return ObjectDamaged(
        f"the object {blob_key(sha256)!r} is not what its name says; remove it, and upload the file again"
    )
