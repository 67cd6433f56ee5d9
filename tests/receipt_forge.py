"""A server that can say anything: it signs chains of whatever records it is given, with its own root key."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from canister.ic import cbor, principal
from canister.ic.cbor import Encodable
from canister.ic.certificate import RootKey
from canister.ic.receipts import document, tree
from canister.ic.receipts import record as records
from canister.ic.receipts.document import Receipt, Replay
from canister.ic.receipts.record import Record


@dataclass(frozen=True)
class Said:
    """A record with what stands beside it."""

    record: Record
    terms: bytes
    words: bytes


def told(receipt: Receipt) -> Said:
    """What a receipt says."""
    return Said(records.decode(receipt.record), receipt.terms, (receipt.replay or Replay()).words)


def with_terms(said: Said, **changes: object) -> Said:
    """The same call under other terms; those of the engine by their own names."""
    terms = document.read_terms(said.terms)
    engine = dict(terms["engine"])  # type: ignore[call-overload]
    for name, value in changes.items():
        (terms if name in terms else engine)[name] = value
    terms["engine"] = engine
    data = cbor.encode(_encodable(terms))
    return replace(said, terms=data, record=replace(said.record, terms=document.terms_hash(data)))


def with_word(said: Said, at: int, word: int) -> Said:
    """Another token among those behind the call; the hash is made to fit."""
    words = bytearray(said.words)
    words[4 * at : 4 * at + 4] = word.to_bytes(4, "little")
    assert said.record.chat is not None
    chat = replace(said.record.chat, after=records.words_hash(bytes(words)))
    return replace(said, words=bytes(words), record=replace(said.record, chat=chat))


class Forge:
    """One root key."""

    def __init__(self) -> None:
        self.key = RootKey.generate()

    def chain(self, calls: Sequence[Said]) -> list[Receipt]:
        """Receipts of one chain, all under its last head."""
        rows: list[list[bytes]] = []
        data: list[bytes] = []

        def node(level: int, n: int) -> bytes:
            return rows[((n + 1) << level) - 1][level]

        for index, said in enumerate(calls):
            previous = rows[-1][0] if rows else records.NO_HASH
            data.append(records.encode_at(said.record, index, previous))
            leaf = tree.leaf_hash(data[-1])
            rows.append([leaf])
            rows[-1] += tree.completed(index, leaf, node)
        size, root = len(calls), tree.root(len(calls), node)
        return [
            Receipt(
                size,
                tuple(tree.inclusion_path(index, size, node)),
                data[index],
                said.terms,
                self._certified(said, size, root),
                self.key.public_key_der,
                Replay(said.words),
            )
            for index, said in enumerate(calls)
        ]

    def files(self, calls: Sequence[Said], folder: Path) -> list[Path]:
        """The chain as files."""
        folder.mkdir(exist_ok=True)
        paths = []
        for number, receipt in enumerate(self.chain(calls)):
            path = folder / f"{number}.receipt.json"
            path.write_bytes(document.to_json(receipt))
            paths.append(path)
        return paths

    def _certified(self, said: Said, size: int, root: bytes) -> bytes:
        canister_id = principal.from_text(document.canister_of(said.terms))
        content = document.certified_tree(canister_id, document.certified_data(size, root))
        return self.key.certify(content, time.time_ns())


def _encodable(value: object) -> Encodable:
    if isinstance(value, dict):
        return {str(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    assert value is None or isinstance(value, str | bytes | int)
    return value
