"""ANS-104 items: signed data with an owner, a target, an anchor and tags. Read, written, signed and verified.

The head is read without the data, so that an item of any size can be checked while its data passes by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from canister.ao.encoding import ID_BYTES, Malformed, sha256, to_base64url
from canister.ao.signing import kinds
from canister.ao.signing.deep_hash import Hashed, deep_hash
from canister.ao.signing.tags import MAX_TAG_BYTES, MAX_TAGS, Tag, decode_tags, encode_tags
from canister.ao.signing.wallets import Wallet

MAX_HEAD_BYTES = 2 + 512 + 512 + 2 * (1 + ID_BYTES) + 16 + MAX_TAG_BYTES
ANCHOR_BYTES = 32


@dataclass(frozen=True)
class Head:
    """All of an item but its data. target, anchor: 32 bytes, or none. raw_tags: as they were signed."""

    kind: kinds.Kind
    signature: bytes
    owner: bytes
    target: bytes
    anchor: bytes
    raw_tags: bytes
    tags: tuple[Tag, ...]

    @cached_property
    def id(self) -> str:
        return to_base64url(sha256(self.signature))

    @cached_property
    def address(self) -> str:
        """Of the owner."""
        return self.kind.address(self.owner)

    def to_bytes(self) -> bytes:
        parts = [self.kind.number.to_bytes(2, "little"), self.signature, self.owner]
        parts += [b"\1" + part if part else b"\0" for part in (self.target, self.anchor)]
        sizes = len(self.tags).to_bytes(8, "little") + len(self.raw_tags).to_bytes(8, "little")
        return b"".join([*parts, sizes, self.raw_tags])

    def message(self, data: bytes | Hashed) -> bytes:
        """What is signed."""
        kind = str(self.kind.number).encode()
        fields = [b"dataitem", b"1", kind, self.owner, self.target, self.anchor, self.raw_tags, data]
        return deep_hash(fields)


@dataclass(frozen=True)
class Item:
    head: Head
    data: bytes

    @property
    def id(self) -> str:
        return self.head.id

    def to_bytes(self) -> bytes:
        return self.head.to_bytes() + self.data


def read_head(data: bytes) -> tuple[Head, int]:
    """The head at the beginning of an item, and where its data begins. Of a long item MAX_HEAD_BYTES are enough.

    Raises Malformed. Nothing is verified.
    """
    reader = _Reader(data)
    kind = kinds.kind_of(int.from_bytes(reader.take(2, "signature type"), "little"))
    signature = reader.take(kind.signature_bytes, "signature")
    owner = reader.take(kind.owner_bytes, "owner")
    target, anchor = reader.optional("target"), reader.optional("anchor")
    n_tags = int.from_bytes(reader.take(8, "number of tags"), "little")
    n_bytes = int.from_bytes(reader.take(8, "length of tags"), "little")
    if n_tags > MAX_TAGS:
        raise Malformed(f"it says that it has {n_tags} tags; an item has at most {MAX_TAGS}")
    if n_bytes > MAX_TAG_BYTES:
        raise Malformed(f"its tags take {n_bytes} bytes; an item has at most {MAX_TAG_BYTES}")
    raw_tags = reader.take(n_bytes, "tags")
    tags = decode_tags(raw_tags)
    if len(tags) != n_tags:
        raise Malformed(f"it says that it has {n_tags} tags, and has {len(tags)}")
    return Head(kind, signature, owner, target, anchor, raw_tags, tags), reader.at


def read_item(data: bytes) -> Item:
    """Raises Malformed. Nothing is verified."""
    head, at = read_head(data)
    return Item(head, data[at:])


def verify(head: Head, data: bytes | Hashed) -> None:
    """Raises WrongSignature unless the owner signed this head with this data."""
    kinds.verify(head.kind, head.owner, head.signature, head.message(data))


def sign_item(
    wallet: Wallet, data: bytes, tags: Sequence[Tag] = (), *, target: bytes = b"", anchor: bytes = b""
) -> Item:
    """target: 32 bytes, or none; anchor too. Raises Malformed."""
    return Item(sign_head(wallet, data, tags, target=target, anchor=anchor), data)


def sign_head(
    wallet: Wallet, data: bytes | Hashed, tags: Sequence[Tag] = (), *, target: bytes = b"", anchor: bytes = b""
) -> Head:
    """As `sign_item`, for data of any length of which the hash is known."""
    if len(target) not in (0, ID_BYTES) or len(anchor) not in (0, ANCHOR_BYTES):
        raise Malformed("a target and an anchor have 32 bytes each, or none")
    kind = kinds.kind_of(wallet.kind)
    head = Head(kind, b"", wallet.owner, target, anchor, encode_tags(tags), tuple(tags))
    return replace(head, signature=wallet.sign(head.message(data)))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n_bytes: int, what: str) -> bytes:
        self.at += n_bytes
        if self.at > len(self.data):
            raise Malformed(f"the item is cut off within its {what}")
        return self.data[self.at - n_bytes : self.at]

    def optional(self, what: str) -> bytes:
        presence = self.take(1, what)[0]
        if presence > 1:
            raise Malformed(f"the byte before its {what} is {presence}; it must be 0 or 1")
        return self.take(ID_BYTES, what) if presence else b""
