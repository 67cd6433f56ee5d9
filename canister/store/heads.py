"""The head of a chat: a hash of what a conversation is, whichever container holds it.

Containers are compacted and written anew, and two servers cut their records differently. Equal conversations have equal
heads even so, and a head tells whether a copy of a chat is its present state. KV rows do not count: they are a cache.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from canister.store.container import CacheFile, CacheHeader, Conversation

N_HEAD = 16
NO_CHAT = b""
"""The head of a chat that was never begun, or was removed."""

_SEED = struct.Struct("<Q")


def head_of(container: Conversation) -> bytes:
    """16 bytes: BLAKE2b over model, seed, tokens, and the packed marks of each token."""
    hashed = hashlib.blake2b(container.header.model_sha256, digest_size=N_HEAD)
    hashed.update(_SEED.pack(container.header.seed))
    hashed.update(container.tokens.astype("<i4", copy=False).tobytes())
    for marks in (container.generated, container.starts, container.redrawn):
        hashed.update(np.packbits(marks, bitorder="little").tobytes())
    return hashed.digest()


def n_same(one: Conversation, other: Conversation) -> int:
    """How many of the first tokens two conversations have in common, with all that is marked of them."""
    n = min(len(one.tokens), len(other.tokens))
    differs = one.tokens[:n] != other.tokens[:n]
    for a, b in (
        (one.generated, other.generated),
        (one.starts, other.starts),
        (one.redrawn, other.redrawn),
    ):
        differs |= a[:n] != b[:n]
    return int(differs.argmax()) if differs.any() else n


def tokens_alone(container: Conversation, keep: int = 0, header: CacheHeader | None = None) -> bytes:
    """A container of the tokens from `keep` on with their marks: the header, and one record without KV rows.

    header: another one to put in front.
    """
    empty, data = CacheFile.create(header or container.header, _nothing)
    part = slice(keep, None)
    _, record = empty.extended(
        0,
        container.tokens[part],
        container.generated[part],
        starts=container.starts[part],
        redrawn=container.redrawn[part],
    )
    return data + record


def gone_on(before: Conversation | None, keep: int, added: Conversation) -> Conversation:
    """The conversation with the first `keep` tokens of `before` and those of `added` behind them, in added's header.

    The opposite of `tokens_alone`. ValueError when `before` has fewer tokens.
    """
    n_before = 0 if before is None else len(before.tokens)
    if not 0 <= keep <= n_before:
        raise ValueError(f"the chat has {n_before} tokens, so {keep} of them cannot be kept")
    if before is None or keep == 0:
        return added
    return Conversation(
        added.header,
        np.concatenate((before.tokens[:keep], added.tokens)),
        np.concatenate((before.generated[:keep], added.generated)),
        np.concatenate((before.starts[:keep], added.starts)),
        np.concatenate((before.redrawn[:keep], added.redrawn)),
    )


def _nothing(offset: int, size: int) -> bytes:
    """The reader of a container whose bytes are nowhere yet; nobody reads KV rows that it has not."""
    return b""
