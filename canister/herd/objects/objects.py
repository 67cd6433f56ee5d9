"""What a place for objects can do, under which keys what lies there, and what goes wrong.

Objects never change: a key names its contents (a SHA-256, or the head of a chat), so that whoever creates a key first
has written what all others would have. Nothing here trusts what it reads: `blobs.py` and `rows.py` check it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from canister.errors import BadRequest, CanisterUnavailable, NotFound, StoreDamaged

MAX_KEY_BYTES = 512
BLOCK_BYTES = 1 << 20  # what is read at once
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class ObjectsUnavailable(CanisterUnavailable):
    """The place of the objects does not answer, or refuses. Nothing is lost; the same call may be sent again."""


class ObjectDamaged(StoreDamaged):
    """An object that is not what its key says."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """changed_seconds: when it was created, in Unix time by the clock of the place."""

    key: str
    n_bytes: int
    changed_seconds: float


class Objects(Protocol):
    """All methods raise ObjectsUnavailable when the place cannot be reached in time, and BadRequest for a bad key."""

    async def create(self, key: str, body: AsyncIterable[bytes]) -> bool:
        """Put an object there, whole and durable, or not at all. False when the key is there already.

        Of several that create a key at once, one gets True. (S3 gives True to more than one for bodies above
        `s3.PART_BYTES`; the object is then one of theirs, whole.) An error of the body is raised, and nothing is put.
        """
        ...

    def read(self, key: str, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` on; none when it ends there or before. NotFound when there is no such object."""
        ...

    async def size(self, key: str) -> int | None:
        """In bytes; None when there is no such object."""
        ...

    async def remove(self, key: str) -> None:
        """It is gone afterwards, whether it was there or not."""
        ...

    def list(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        """All objects below a prefix, which ends with a whole segment: `chat` or `chat/`. In no order."""
        ...

    async def close(self) -> None:
        """Give up connections and threads."""
        ...


def blob_key(sha256: str) -> str:
    """Bytes by their SHA-256, in lower-case hex."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise BadRequest(f"{sha256[:80]!r} is no SHA-256 in lower-case hex")
    return f"blob/{sha256}"


def chat_key(owner: bytes, head: bytes) -> str:
    """KV rows of a chat with this head. owner: which chat it is; two chats that are equal now have two keys."""
    return f"chat/{_short(owner)}/{head.hex()}"


def prefix_key(canister: str, model_sha256: bytes, kv_layout: bytes, head: bytes) -> str:
    """KV rows that are published for all callers of a canister, for models of this file and layout."""
    return f"{prefixes_of(canister, model_sha256, kv_layout)}/{head.hex()}"


def prefixes_of(canister: str, model_sha256: bytes, kv_layout: bytes) -> str:
    """The prefix of all that is published for a canister's model and layout."""
    return f"prefix/{_short(canister.encode())}/{model_sha256.hex()}/{_short(kv_layout)}"


def unpublished_of(canister: str) -> str:
    """The prefix of the heads that were published once and are not to be any more: workers may still have them."""
    return f"unpublished/{_short(canister.encode())}"


def check_key(key: str) -> str:
    """The key, if it is one: segments of letters, digits, `.`, `_`, `-`, none of which begins with a dot."""
    if len(key) > MAX_KEY_BYTES or not _KEY.fullmatch(key):
        raise BadRequest(f"{key[:80]!r} is no key of an object; give segments of letters, digits, '.', '_', '-'")
    return key


def missing(key: str) -> NotFound:
    return NotFound(f"there is no object {key!r}")


async def whole(objects: Objects, key: str, max_bytes: int) -> bytes:
    """An object in memory. NotFound; ObjectDamaged when it has more than max_bytes."""
    parts, n_bytes = [], 0
    async with aclosing(objects.read(key)) as blocks:
        async for block in blocks:
            n_bytes += len(block)
            if n_bytes > max_bytes:
                raise ObjectDamaged(f"the object {key!r} has more than {max_bytes} bytes")
            parts.append(block)
    return b"".join(parts)


async def once(data: bytes) -> AsyncIterator[bytes]:
    """A body of bytes in memory."""
    for start in range(0, len(data), BLOCK_BYTES):
        yield data[start : start + BLOCK_BYTES]


def _short(what: bytes) -> str:
    return hashlib.blake2b(what, digest_size=16).hexdigest()
