"""What a receipt proves by itself: signature, certificate, chain. And what several prove together.

Each step raises a ReceiptError that says what does not fit. No model and no server is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from canister.ic import cbor, certificate, hash_tree, principal
from canister.ic.certificate import MAX_AGE_NS, CertificateError
from canister.ic.receipts import document, tree
from canister.ic.receipts.document import Receipt, ReceiptError
from canister.ic.receipts.record import NO_HASH, Record, words_hash
from canister.ic.receipts.values import value_hash

OTHER_TERMS = "the terms are not those of the record: the model, the costs or the sampling were changed"

# Calls that change a chat without being one of its calls: caches are copied, removed, written, cleaned up.
CHANGES_CHATS = frozenset(
    (
        *("copy_prompt_cache", "remove_prompt_cache", "upload_prompt_cache_chunk", "cache_cleanup_now"),
        *("filesystem_remove", "file_upload_chunk"),
    )
)


@dataclass(frozen=True, slots=True)
class Proven:
    """A record that a root key stands for. leaf: its hash. root: of the tree. certified_ns: when that was signed."""

    receipt: Receipt
    record: Record
    leaf: bytes
    root: bytes
    canister_id: bytes
    certified_ns: int

    @property
    def id(self) -> str:
        return document.receipt_id(self.record.index, self.leaf)


@dataclass(frozen=True, slots=True)
class Gap:
    """Between two calls on a chat, something changed it that none of the given receipts tells."""

    before: Proven
    after: Proven

    def __str__(self) -> str:
        first, second = self.before.record, self.after.record
        n_left = 0 if first.chat is None else first.chat.n_after
        n_found = 0 if second.chat is None else second.chat.n_loaded
        return (
            f"a record is missing: call {first.index} left its chat with {n_left} tokens, and call {second.index} "
            f"found another one of {n_found}; a call between them changed it, or the chat was copied, uploaded or "
            "removed"
        )


def check(receipt: Receipt, root_key: bytes | None = None, wanted_id: str | None = None) -> Proven:
    """Check a receipt. ReceiptError. root_key: the one that must have signed; None: the one that the receipt names.

    wanted_id: what the server has called it, in its header.
    """
    record = document.decoded(receipt)
    leaf = tree.leaf_hash(receipt.record)
    if wanted_id is not None:
        _check_id(wanted_id, record.index, leaf)
    if document.terms_hash(receipt.terms) != record.terms:
        raise ReceiptError(OTHER_TERMS)
    if (record.index == 0) != (record.previous == NO_HASH):
        raise ReceiptError(f"record {record.index} has no place in a chain: what it follows is not what comes before")
    try:
        root = tree.root_from(leaf, record.index, receipt.size, receipt.path)
    except tree.ProofError as error:
        raise ReceiptError(f"the way from the record to the head is wrong: {error}") from None
    if receipt.since:
        _check_beginning(receipt, root)
    canister_id = principal.from_text(document.canister_of(receipt.terms))
    certified_ns = _check_certificate(receipt, root, root_key or receipt.root_key, canister_id)
    if root_key is not None and root_key != receipt.root_key:
        raise ReceiptError("the receipt names another root key than the one that it must be signed with")
    if record.time_ns > certified_ns + MAX_AGE_NS:
        raise ReceiptError("the call is said to be later than the certificate that holds it")
    _check_replay(receipt, record)
    return Proven(receipt, record, leaf, root, canister_id, certified_ns)


def check_together(proven: Sequence[Proven]) -> list[str]:
    """Check that receipts are of one chain. ReceiptError for a fork. Returns what they do not prove, in sentences."""
    notes: list[str] = []
    by_canister: dict[bytes, list[Proven]] = {}
    for one in proven:
        by_canister.setdefault(one.canister_id, []).append(one)
    for chain in by_canister.values():
        notes += _check_chain(chain)
    return notes


def gaps(proven: Sequence[Proven]) -> list[Gap]:
    """Where calls on one chat do not follow each other, and no given receipt is of a call that explains it."""
    changes = [
        one
        for one in proven
        if one.record.method in CHANGES_CHATS and one.record.outcome == "ok" and not one.record.is_query
    ]
    chats: dict[tuple[bytes, bytes, str], list[Proven]] = {}
    for one in proven:
        chat = one.record.chat
        if chat is not None and chat.cache and not one.record.is_query and one.record.outcome == "ok":
            chats.setdefault((one.canister_id, one.record.caller, chat.cache), []).append(one)
    found: list[Gap] = []
    for calls in chats.values():
        calls.sort(key=lambda one: one.record.index)
        for first, second in pairwise(calls):
            earlier, later = first.record.chat, second.record.chat
            if earlier is None or later is None:
                continue
            follows = not earlier.saves or later.before == earlier.after or first.record.index == second.record.index
            if not follows and not any(_is_between(one, first, second) for one in changes):
                found.append(Gap(first, second))
    return found


def _is_between(one: Proven, first: Proven, second: Proven) -> bool:
    is_in_chain = one.canister_id == first.canister_id
    return is_in_chain and first.record.index < one.record.index < second.record.index


def _check_beginning(receipt: Receipt, root: bytes) -> None:
    try:
        tree.check_consistency(receipt.since, receipt.since_root, receipt.size, root, receipt.consistency)
    except tree.ProofError as error:
        raise ReceiptError(f"the chain is forked, or the proof of its beginning was changed: {error}") from None


def _check_id(wanted: str, index: int, leaf: bytes) -> None:
    number, told = document.parse_id(wanted)
    if number != index:
        raise ReceiptError(f"this is the receipt of call {index}, not of call {number}")
    if told and told != leaf:
        raise ReceiptError(
            f"call {index} had another record when it was answered: the server has put this one in its place"
        )


def _check_certificate(receipt: Receipt, root: bytes, root_key: bytes, canister_id: bytes) -> int:
    """When the head was certified."""
    try:
        value = cbor.decode(receipt.certificate)
        if not isinstance(value, dict) or cbor.encode(_encodable(value)) != receipt.certificate:
            raise CertificateError("its bytes are not in the form that it was signed in")
        state = hash_tree.from_value(value.get("tree"))
        certified = hash_tree.leaf(state, b"canister", canister_id, b"certified_data")
        if certified != document.certified_data(receipt.size, root):  # before the signature, which takes longest
            raise ReceiptError("the certificate is of another head: the record, its place or the path were changed")
        return certificate.verify_of_any_age(receipt.certificate, root_key, canister_id)[1]
    except (CertificateError, cbor.CborError, hash_tree.TreeError, TypeError) as error:
        raise ReceiptError(f"the certificate does not count: {error}") from None


def _check_replay(receipt: Receipt, record: Record) -> None:
    replay = receipt.replay
    if replay is None:
        return
    if replay.words and (record.chat is None or words_hash(replay.words) != record.chat.after):
        raise ReceiptError("the tokens beside the record are not those that it has the hash of")
    if record.chat is not None and replay.words:
        loaded = replay.words[: 4 * record.chat.n_kept]
        if record.chat.n_loaded == record.chat.n_kept and words_hash(loaded) != record.chat.before:
            raise ReceiptError("the tokens before the call are not those that its record has the hash of")
    for name, data, wanted in (
        ("argument", replay.argument, record.argument),
        ("output", replay.output, record.output),
    ):
        if data and words_hash(data) != wanted:
            raise ReceiptError(f"the {name} beside the record is not the one that it has the hash of")


def check_contents(record: Record, argument: object = None, output: object = None) -> None:
    """Compare what a caller sent and got with the hashes of the record. ReceiptError."""
    for name, value, wanted in (("argument", argument, record.argument), ("output", output, record.output)):
        if value is not None and value_hash(value) != wanted:
            raise ReceiptError(f"the {name} is not the one that call {record.index} has the hash of")


def _check_chain(chain: list[Proven]) -> list[str]:
    chain.sort(key=lambda one: (one.record.index, one.receipt.size))
    for first, second in pairwise(chain):
        index = first.record.index
        if index == second.record.index and first.leaf != second.leaf:
            raise ReceiptError(f"the chain is forked: there are two records with the number {index}")
        if index + 1 == second.record.index and second.record.previous != first.leaf:
            raise ReceiptError(f"the chain is forked: record {index + 1} does not follow record {index}")
    keys = {one.receipt.root_key for one in chain}
    if len(keys) > 1:
        raise ReceiptError("the receipts of one canister are signed with different root keys")
    heads: dict[int, bytes] = {}
    for one in chain:
        if heads.setdefault(one.receipt.size, one.root) != one.root:
            raise ReceiptError(f"the chain is forked: two certified heads of {one.receipt.size} records differ")
    for one in chain:
        since = one.receipt.since
        if heads.get(since, one.receipt.since_root) != one.receipt.since_root:
            raise ReceiptError(
                f"the chain is forked: the {since} records of an older head are not the first of the "
                f"{one.receipt.size} of a newer one"
            )
    proofs = {(one.receipt.since, one.receipt.size) for one in chain}
    sizes = sorted(heads)
    unlinked = [pair for pair in pairwise(sizes) if pair not in proofs]
    return [
        f"no proof is at hand that the head of {old} records is the beginning of that of {new}: "
        f"fetch the later receipt with --since {old}"
        for old, new in unlinked
    ]


def _encodable(value: cbor.Value) -> cbor.Encodable:
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items() if isinstance(key, str)}
    return [_encodable(item) for item in value] if isinstance(value, list) else value
