"""A receipt as a file, in JSON or CBOR: one record, its way to a certified head, and what a replay needs.

Both forms are exact: a file that is read and written again has the same bytes, and one that has not was changed. What
is shown for people in JSON (`call`) is made of the record's bytes, so it cannot say anything else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from canister.ic import cbor, hash_tree, principal
from canister.ic.cbor import Encodable
from canister.ic.hash_tree import Tree
from canister.ic.receipts import record as records
from canister.ic.receipts.record import Record, RecordError
from canister.ic.request_id import leb128

FORMAT = "llama-canister-receipt-1"
LABEL = b"receipts"
MAX_BYTES = 64 << 20

Form = Literal["json", "cbor"]


class ReceiptError(ValueError):
    """A file that is no receipt, or one that was changed. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a call had and gave, for who decodes it again. words: of all tokens behind the call, with their marks.
    argument, output: in CBOR, where the server keeps them; b"": it does not.
    """

    words: bytes = b""
    argument: bytes = b""
    output: bytes = b""


@dataclass(frozen=True, slots=True)
class Receipt:
    """size: records under the head. path: from the record to the head. record, terms: bytes. root_key: DER.

    certificate: CBOR; its certified_data is that of the head. replay: for the caller's own eyes; None: nothing is kept.
    since, since_root, consistency: proof that the first `since` records are those of an older head; 0 and empty: not
    asked for.
    """

    size: int
    path: tuple[bytes, ...]
    record: bytes
    terms: bytes
    certificate: bytes
    root_key: bytes
    replay: Replay | None = None
    since: int = 0
    since_root: bytes = b""
    consistency: tuple[bytes, ...] = ()


def certified_data(size: int, root: bytes) -> bytes:
    """The 32 bytes that stand for the head in the canister's certificate: the hash of `witness`."""
    return hash_tree.digest(witness(size, root))


def witness(size: int, root: bytes) -> Tree:
    """The canister's own hash tree, as clients of the IC check one: receipts/{root, size}."""
    return hash_tree.build({LABEL: {b"root": root, b"size": leb128(size)}})


def certified_tree(canister_id: bytes, data: bytes) -> Mapping[bytes, hash_tree.Content]:
    """What a certificate of it holds."""
    return {b"canister": {canister_id: {b"certified_data": data}}}


def terms_hash(terms: bytes) -> bytes:
    return hashlib.sha256(terms).digest()


def receipt_id(index: int, leaf: bytes) -> str:
    """`17-9f86…`: the number of a record and its leaf hash, so that whoever has it can tell a forged record."""
    return f"{index}-{leaf.hex()}"


def parse_id(text: str) -> tuple[int, bytes]:
    """Number and leaf hash of an id; the hash is empty where only the number is given. ReceiptError."""
    number, _, digits = text.partition("-")
    try:
        leaf = bytes.fromhex(digits)
        if not (number.isascii() and number.isdigit() and len(number) < 19 and len(leaf) in (0, records.HASH_BYTES)):
            raise ValueError
    except ValueError:
        raise ReceiptError(f"{text[:200]!r} is no id of a receipt: send the header X-IC-Receipt, or a number") from None
    return int(number), leaf


# -- files


def to_cbor(receipt: Receipt) -> bytes:
    document: dict[str, Encodable] = {"format": FORMAT}
    for name, value in _items(receipt):
        document[name] = value
    return cbor.encode(document)


def to_json(receipt: Receipt) -> bytes:
    document: dict[str, object] = {"format": FORMAT, "id": _id_of(receipt), "call": shown(receipt)}
    for name, value in _items(receipt):
        document[name] = _hex(value)
    return json.dumps(document, ensure_ascii=True, indent=1).encode() + b"\n"


def read(data: bytes) -> tuple[Receipt, Form]:
    """The receipt in a file, and in which form it is. ReceiptError."""
    if len(data) > MAX_BYTES:
        raise ReceiptError(f"a file of {len(data)} bytes is no receipt: at most {MAX_BYTES}")
    form: Form = "json" if data[:1] == b"{" else "cbor"
    try:
        document: object = json.loads(data) if form == "json" else cbor.decode(data)
    except (ValueError, RecursionError) as error:
        raise ReceiptError(f"the file is no receipt in JSON or CBOR: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ReceiptError(f"the file does not say that it is a {FORMAT}")
    try:
        receipt = _from_document(document, is_text=form == "json")
        again = to_json(receipt) if form == "json" else to_cbor(receipt)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ReceiptError):
            raise
        raise ReceiptError(f"the receipt lacks something, or has what it cannot have: {error!r:.120}") from None
    if again != data:
        raise ReceiptError("the file was changed: what it says is not what its record says, or not in the form of one")
    return receipt, form


def shown(receipt: Receipt) -> dict[str, object]:
    """The record for people. ReceiptError when its bytes are none."""
    record = decoded(receipt)
    chat = record.chat
    told: dict[str, object] = {
        "canister": canister_of(receipt.terms),
        "caller": principal.to_text(record.caller),
        "method": record.method,
        "kind": "query" if record.is_query else "update",
        "outcome": record.outcome,
        "time_ns": record.time_ns,
        "argument": record.argument.hex(),
        "output": record.output.hex(),
        "request_bytes": record.request_bytes,
        "instructions": record.instructions,
        "parts": dict(record.parts),
        "cycles": record.cycles,
        "previous": record.previous.hex(),
        "terms": _told(read_terms(receipt.terms)),
    }
    if record.fence is not None:
        told["fence"] = record.fence
    if chat is not None:
        told["chat"] = {row.name: _hex(getattr(chat, row.name)) for row in fields(chat)}
    return told


def decoded(receipt: Receipt) -> Record:
    """Its record. ReceiptError."""
    try:
        return records.decode(receipt.record)
    except RecordError as error:
        raise ReceiptError(str(error)) from None


def read_terms(terms: bytes) -> dict[str, object]:
    """The terms under which a call ran, by name. ReceiptError."""
    try:
        document = cbor.decode(terms)
    except cbor.CborError as error:
        raise ReceiptError(f"the terms are not CBOR: {error}") from None
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise ReceiptError("the terms are no map of names")
    return {str(key): value for key, value in document.items()}


def canister_of(terms: bytes) -> str:
    """The canister that they name, in text form. ReceiptError."""
    match read_terms(terms).get("canister"):
        case bytes(found):
            return principal.to_text(found)
    raise ReceiptError("the terms name no canister")


def _id_of(receipt: Receipt) -> str:
    from canister.ic.receipts.tree import leaf_hash

    return receipt_id(decoded(receipt).index, leaf_hash(receipt.record))


def _items(receipt: Receipt) -> list[tuple[str, int | bytes | list[bytes]]]:
    found: list[tuple[str, int | bytes | list[bytes]]] = [
        ("size", receipt.size),
        ("path", list(receipt.path)),
        ("record", receipt.record),
        ("terms", receipt.terms),
        ("certificate", receipt.certificate),
        ("root_key", receipt.root_key),
    ]
    if receipt.since:
        found += [("since", receipt.since), ("since_root", receipt.since_root)]
        found += [("consistency", list(receipt.consistency))]
    if receipt.replay is not None:
        found += [("words", receipt.replay.words)]
        found += [(name, data) for name in ("argument", "output") if (data := getattr(receipt.replay, name))]
    return found


def _from_document(document: Mapping[object, object], *, is_text: bool) -> Receipt:
    def blob(value: object) -> bytes:
        if is_text and isinstance(value, str):
            return bytes.fromhex(value)
        if not is_text and isinstance(value, bytes):
            return value
        raise ReceiptError(f"{value!r:.40} stands where bytes must")

    def number(name: str) -> int:
        value = document[name]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
            raise ReceiptError(f"{name} is no number of records: {value!r:.40}")
        return value

    def blobs(name: str) -> tuple[bytes, ...]:
        value = document[name]
        if not isinstance(value, list):
            raise ReceiptError(f"{name} is no list of hashes")
        return tuple(map(blob, value))

    def optional(name: str) -> bytes:
        return blob(document[name]) if name in document else b""

    has_since = "since" in document
    replay = Replay(optional("words"), optional("argument"), optional("output")) if "words" in document else None
    return Receipt(
        number("size"),
        blobs("path"),
        blob(document["record"]),
        blob(document["terms"]),
        blob(document["certificate"]),
        blob(document["root_key"]),
        replay,
        number("since") if has_since else 0,
        blob(document["since_root"]) if has_since else b"",
        blobs("consistency") if has_since else (),
    )


def _hex(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return [_hex(item) for item in value] if isinstance(value, list) else value


def _told(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _told(item) for key, item in value.items()}
    return _hex(value) if isinstance(value, bytes) else [_told(v) for v in value] if isinstance(value, list) else value
