"""`Content-Digest` of RFC 9530: a body that names its hash is handed on once it is known to have come as sent."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence

from canister.errors import BadArgument, MessageTooLarge

MAX_BYTES = 16 * 1024 * 1024  # of a body that is held until it is checked
ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}

_ENTRY = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)\s*=\s*:([A-Za-z0-9+/=]*):\s*(?:;.*)?")


def read(headers: Sequence[str]) -> dict[str, bytes]:
    """The digests of a header's fields by algorithm, those that can be checked; empty where none is asked for.

    BadArgument for a field that is not understood, or that has only other algorithms: a caller who asks for a check
    must not believe that it was made.
    """
    entries = [entry for header in headers for entry in header.split(",")]
    found: dict[str, bytes] = {}
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        digest = None if match is None else _decoded(match[2])
        if match is None or digest is None:
            raise BadArgument(
                f"Content-Digest: {entry.strip()[:80]!r} is not understood; it looks like 'sha-256=:BASE64 OF IT:'"
            )
        make = ALGORITHMS.get(match[1])
        if make is None:
            continue
        if len(digest) != make().digest_size:
            raise BadArgument(
                f"Content-Digest: {match[1]} has {make().digest_size} bytes, and these are {len(digest)}; what stands "
                "between the colons is base64 of the hash itself, not of its hex digits"
            )
        found[match[1]] = digest
    if entries and not found:
        raise BadArgument(f"Content-Digest: only {' and '.join(ALGORITHMS)} can be checked; give one of them, or none")
    return found


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


async def checked(blocks: AsyncIterator[bytes], digests: Mapping[str, bytes]) -> AsyncIterator[bytes]:
    """The same blocks, after the last one has come and all digests agree.

    MessageTooLarge for more bytes than are held; BadArgument when a digest does not agree: nothing is handed on then.
    """
    held: list[bytes] = []
    n_bytes = 0
    async for block in blocks:
        n_bytes += len(block)
        if n_bytes > MAX_BYTES:
            raise MessageTooLarge(
                f"a body with Content-Digest may have {MAX_BYTES} bytes: send the file in slices, each with "
                "Content-Range and its own digest"
            )
        held.append(block)
    for algorithm, expected in digests.items():
        found = await asyncio.to_thread(_hash, algorithm, held)
        if found != expected:
            raise BadArgument(
                f"the body came in other bytes than were sent: its {algorithm} is {_told(found)}, and Content-Digest "
                f"says {_told(expected)}. Nothing of it was stored; send it again"
            )
    for block in held:
        yield block


def _hash(algorithm: str, blocks: Sequence[bytes]) -> bytes:
    hashing = ALGORITHMS[algorithm]()
    for block in blocks:
        hashing.update(block)
    return hashing.digest()


def _told(digest: bytes) -> str:
    return f":{base64.b64encode(digest).decode()}:"
