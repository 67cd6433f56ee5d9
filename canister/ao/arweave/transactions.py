"""Transactions of format 2: what an owner signs about data, by its root, and about winston that go to a target.

In JSON bytes are base64url and numbers are decimal strings, as Arweave's clients send them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from canister.ao.arweave.chunks import MAX_CHUNK_BYTES, tree_of
from canister.ao.encoding import ID_BYTES, Malformed, WrongSignature, from_base64url, sha256, to_base64url
from canister.ao.signing import kinds
from canister.ao.signing.deep_hash import deep_hash
from canister.ao.signing.tags import MAX_TAG_BYTES, MAX_TAGS, Tag
from canister.ao.signing.wallets import ArweaveWallet

FORMAT = 2
MAX_PROOF_BYTES = 96 * 64
_KEY_BYTES = 512
_ANCHOR_BYTES = (0, 32, 48)  # none, a transaction's id, a block's
_NUMBER = re.compile(r"0|[1-9][0-9]{0,29}")


@dataclass(frozen=True)
class Transaction:
    """target: 32 bytes, or none. quantity, reward: winston. anchor: `last_tx`. data_root: none without data."""

    signature: bytes
    owner: bytes
    target: bytes
    quantity: int
    reward: int
    anchor: bytes
    tags: tuple[Tag, ...]
    data_bytes: int
    data_root: bytes

    @cached_property
    def id(self) -> str:
        return to_base64url(sha256(self.signature))

    @cached_property
    def address(self) -> str:
        """Of the owner."""
        return kinds.hashed_address(self.owner)

    def message(self) -> bytes:
        """What is signed."""
        numbers = [str(number).encode() for number in (self.quantity, self.reward)]
        tags = [list(tag) for tag in self.tags]
        size = str(self.data_bytes).encode()
        return deep_hash([b"2", self.owner, self.target, *numbers, self.anchor, tags, size, self.data_root])

    def to_json(self, data: bytes = b"") -> dict[str, object]:
        return {
            "format": FORMAT,
            "id": self.id,
            "last_tx": to_base64url(self.anchor),
            "owner": to_base64url(self.owner),
            "tags": [{"name": to_base64url(name), "value": to_base64url(value)} for name, value in self.tags],
            "target": to_base64url(self.target),
            "quantity": str(self.quantity),
            "data": to_base64url(data),
            "data_size": str(self.data_bytes),
            "data_root": to_base64url(self.data_root),
            "reward": str(self.reward),
            "signature": to_base64url(self.signature),
        }


@dataclass(frozen=True, slots=True)
class PostedChunk:
    """A chunk as clients post it; `chunks.check_chunk` tells whether it belongs to the root."""

    data_root: bytes
    data_bytes: int
    offset: int
    proof: bytes
    chunk: bytes

    def to_json(self) -> dict[str, str]:
        return {
            "data_root": to_base64url(self.data_root),
            "data_size": str(self.data_bytes),
            "data_path": to_base64url(self.proof),
            "offset": str(self.offset),
            "chunk": to_base64url(self.chunk),
        }


def read_transaction(document: object) -> tuple[Transaction, bytes]:
    """A transaction and the data that came with it, if any. Raises Malformed. The signature is not verified; the
    data is, against the root."""
    fields = _Fields(document, "the transaction")
    if fields.value("format") not in (FORMAT, str(FORMAT)):
        raise Malformed(f"the transaction's format is {str(fields.value('format'))[:20]!r}; {FORMAT} is taken here")
    transaction = Transaction(
        signature=fields.bytes("signature", (_KEY_BYTES,)),
        owner=fields.bytes("owner", (_KEY_BYTES,)),
        target=fields.bytes("target", (0, ID_BYTES), ""),
        quantity=fields.number("quantity", "0"),
        reward=fields.number("reward", "0"),
        anchor=fields.bytes("last_tx", _ANCHOR_BYTES, ""),
        tags=_tags(fields.value("tags")),
        data_bytes=fields.number("data_size", "0"),
        data_root=fields.bytes("data_root", (0, ID_BYTES), ""),
    )
    if fields.text("id") != transaction.id:
        raise Malformed(f"the transaction's id is not the hash of its signature, {transaction.id}")
    if bool(transaction.data_root) != bool(transaction.data_bytes):
        raise Malformed("the transaction has data_root without data_size, or the other way round")
    data = fields.bytes("data", None, "")
    if data and (len(data) != transaction.data_bytes or tree_of(data).root != transaction.data_root):
        raise Malformed("the transaction's data is not what data_root and data_size say")
    return transaction, data


def verify(transaction: Transaction) -> None:
    """Raises WrongSignature."""
    if not kinds.is_rsa_signed(transaction.owner, transaction.signature, transaction.message()):
        raise WrongSignature(f"the signature of the transaction {transaction.id} does not verify")


def sign_transaction(
    wallet: ArweaveWallet,
    *,
    data_root: bytes = b"",
    data_bytes: int = 0,
    tags: Sequence[Tag] = (),
    target: bytes = b"",
    quantity: int = 0,
    reward: int = 0,
    anchor: bytes = b"",
) -> Transaction:
    _check_tags(tags)
    unsigned = Transaction(b"", wallet.owner, target, quantity, reward, anchor, tuple(tags), data_bytes, data_root)
    return replace(unsigned, signature=wallet.sign(unsigned.message()))


def read_chunk(document: object) -> PostedChunk:
    """Raises Malformed. The proof is not checked."""
    fields = _Fields(document, "the chunk")
    chunk = PostedChunk(
        data_root=fields.bytes("data_root", (ID_BYTES,)),
        data_bytes=fields.number("data_size"),
        offset=fields.number("offset"),
        proof=fields.bytes("data_path"),
        chunk=fields.bytes("chunk"),
    )
    if len(chunk.proof) > MAX_PROOF_BYTES or len(chunk.chunk) > MAX_CHUNK_BYTES:
        raise Malformed(f"the chunk has more than {MAX_CHUNK_BYTES} bytes, or its proof more than {MAX_PROOF_BYTES}")
    return chunk


class _Fields:
    def __init__(self, document: object, what: str) -> None:
        if not isinstance(document, Mapping):
            raise Malformed(f"{what} is no JSON object")
        self._document: Mapping[object, object] = document
        self._what = what

    def value(self, name: str) -> object:
        return self._document.get(name)

    def text(self, name: str, missing: str | None = None) -> str:
        value = self._document.get(name, missing)
        if not isinstance(value, str):
            raise Malformed(f"{self._what} has no text {name}")
        return value

    def bytes(self, name: str, lengths: Sequence[int] | None = None, missing: str | None = None) -> bytes:
        data = from_base64url(self.text(name, missing), f"{self._what}'s {name}")
        if lengths is not None and len(data) not in lengths:
            raise Malformed(f"{self._what}'s {name} has {len(data)} bytes, not {' or '.join(map(str, lengths))}")
        return data

    def number(self, name: str, missing: str | None = None) -> int:
        value = self._document.get(name, missing)
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not _NUMBER.fullmatch(text):
            raise Malformed(f"{self._what}'s {name} is {str(value)[:40]!r}, no whole number of at most 30 digits")
        return int(text)


def _tags(value: object) -> tuple[Tag, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Malformed("the transaction's tags are no list")
    tags = []
    for entry in value[: MAX_TAGS + 1]:
        fields = _Fields(entry, "a tag of the transaction")
        tags.append((fields.bytes("name"), fields.bytes("value")))
    _check_tags(tags)
    return tuple(tags)


def _check_tags(tags: Sequence[Tag]) -> None:
    n_bytes = sum(len(name) + len(value) for name, value in tags)
    if len(tags) > MAX_TAGS or n_bytes > MAX_TAG_BYTES:
        raise Malformed(f"a transaction has at most {MAX_TAGS} tags of {MAX_TAG_BYTES} bytes together")
