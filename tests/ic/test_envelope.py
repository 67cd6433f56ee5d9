"""Envelopes: signed by whom they say, in time, for this canister; everything else is refused in the IC's words."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.ic import cbor, envelope, principal
from canister.ic.cbor import Encodable
from canister.ic.envelope import Delegated, EnvelopeError, RequestKind
from canister.ic.identity import Identity
from canister.ic.request_id import HashError, hash_of

NOW_NS = time.time_ns()
SECOND_NS = 10**9
CANISTER = principal.from_text(principal.canister_id(0))
OTHER = principal.from_text(principal.canister_id(7))
ALICE, BOB, CAROL = (Identity.generate(kind) for kind in ("ed25519", "secp256k1", "prime256v1"))


def content(kind: RequestKind = "call", **changes: Encodable) -> dict[str, Encodable]:
    fields: dict[str, Encodable] = {"request_type": kind, "ingress_expiry": NOW_NS + 60 * SECOND_NS}
    if kind == "read_state":
        fields["paths"] = [[b"time"]]
    else:
        fields |= {"canister_id": CANISTER, "method_name": "health", "arg": b"DIDL\0\0"}
    return fields | changes


def sealed(kind: RequestKind = "call", sender: Identity | Delegated | None = ALICE, **changes: Encodable) -> bytes:
    return envelope.seal(content(kind, **changes), sender)[0]


def changed(body: bytes, **fields: Any) -> bytes:
    """An envelope with other fields; `content__x` changes one of the content."""
    document: Any = cbor.decode(body)
    for name, value in fields.items():
        inside, _, field = name.rpartition("__")
        (document[inside] if inside else document)[field] = value
    return cbor.encode(document)


def opened(body: bytes, kind: RequestKind = "call", now_ns: int = NOW_NS) -> frozenset[bytes] | None:
    return envelope.verify(envelope.read(body, kind), now_ns)


def refused(body: bytes, message: str, kind: RequestKind = "call", now_ns: int = NOW_NS) -> None:
    with pytest.raises(EnvelopeError, match=message):
        opened(body, kind, now_ns)


# -- hashes


def test_the_request_id_of_the_specification() -> None:
    """IC interface specification, "Request ids"."""
    example = {
        "request_type": "call",
        "sender": b"\x04",
        "ingress_expiry": 1_685_570_400_000_000_000,
        "canister_id": bytes.fromhex("00000000000004d2"),
        "method_name": "hello",
        "arg": b"DIDL\x00\xfd*",
    }
    assert hash_of(example).hex() == "1d1091364d6bb8a6c16b203ee75467d59ead468f523eb058880ae8ec80e2b101"


def test_the_order_of_fields_and_absent_ones_do_not_matter() -> None:
    assert hash_of({"a": 1, "b": [b"x", "y"], "c": None}) == hash_of({"b": (b"x", "y"), "a": 1})


@pytest.mark.parametrize("value", [True, -1, 1.5, {"a": False}, [None]])
def test_what_has_no_hash(value: object) -> None:
    with pytest.raises(HashError):
        hash_of(value)


# -- good ones


@pytest.mark.parametrize("sender", [ALICE, BOB, CAROL], ids=["ed25519", "secp256k1", "prime256v1"])
@pytest.mark.parametrize("kind", ["call", "query", "read_state"])
def test_signed(sender: Identity, kind: RequestKind) -> None:
    body, request_id = envelope.seal(content(kind), sender)
    request = envelope.read(body, kind)
    assert envelope.verify(request, NOW_NS) is None
    assert principal.to_text(request.sender) == sender.principal
    assert request.id == request_id


def test_anonymous_with_fields_that_are_null() -> None:
    body = changed(sealed(sender=None), sender_pubkey=None, sender_sig=None, sender_delegation=None)
    assert opened(body) is None
    assert opened(b"\xd9\xd9\xf7" + body) is None


def test_fields_that_are_null_do_not_count() -> None:
    assert opened(changed(sealed(), content__nonce=None)) is None


@pytest.mark.parametrize("kind", ["query", "read_state"])
def test_anonymous_clients_may_have_a_wrong_clock(kind: RequestKind) -> None:
    assert opened(sealed(kind, None, ingress_expiry=1), kind) is None


def test_delegations() -> None:
    until = NOW_NS + SECOND_NS
    two = envelope.delegate(envelope.delegate(ALICE, BOB, until, [CANISTER, OTHER]), CAROL, until, [CANISTER])
    request = envelope.read(sealed(sender=two), "call")
    assert envelope.verify(request, NOW_NS) == {CANISTER}
    assert principal.to_text(request.sender) == ALICE.principal == two.principal
    assert opened(sealed(sender=envelope.delegate(ALICE, BOB, until))) is None


# -- bad ones


@pytest.mark.parametrize("kind", ["call", "query", "read_state"])
@pytest.mark.parametrize("seconds", [-3600, 0, 361, 3600])
def test_expired_and_early(kind: RequestKind, seconds: int) -> None:
    body = sealed(kind, ingress_expiry=NOW_NS + seconds * SECOND_NS)
    refused(body, "^Invalid request expiry: Specified ingress_expiry not within expected range: Minimum allowed", kind)


def test_anonymous_updates_expire() -> None:
    refused(sealed(sender=None, ingress_expiry=NOW_NS), "^Invalid request expiry: ")


def test_times_look_like_the_ics() -> None:
    with pytest.raises(EnvelopeError) as caught:
        opened(sealed(ingress_expiry=1_746_100_800_000_000_000))
    assert str(caught.value).endswith("Provided expiry: 2025-05-01 12:00:00 UTC")
    assert re.search(r"Minimum allowed expiry: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{9})? UTC, Max", str(caught.value))


TAMPERED: Mapping[str, tuple[bytes, str]] = {
    "another argument": (changed(sealed(), content__arg=b"DIDL\0\1\x7f"), "Invalid signature: Invalid basic signature"),
    "another method": (changed(sealed(), content__method_name="ready"), "Invalid signature: Invalid basic signature"),
    "a later expiry": (
        changed(sealed(), content__ingress_expiry=NOW_NS + 90 * SECOND_NS),
        "Invalid signature: Invalid basic signature: Ed25519 signature could not be verified",
    ),
    "another sender": (
        changed(sealed(), content__sender=principal.self_authenticating(BOB.public_key_der)),
        "The user id '.*' does not match the public key",
    ),
    "another key": (
        changed(sealed(), sender_pubkey=BOB.public_key_der),
        "The user id .* does not match the public key",
    ),
    "another signature": (changed(sealed(), sender_sig=bytes(64)), "Invalid signature: Invalid basic signature"),
    "no signature": (changed(sealed(sender=None), content__sender=b"\x01\x02"), "Missing signature from user: "),
    "anonymous, signed": (
        changed(sealed(), content__sender=principal.ANONYMOUS_BYTES),
        "Signature is not allowed for the anonymous user",
    ),
    "a long nonce": (sealed(nonce=bytes(33)), "Nonce in request is too big: got 33 bytes, but at most 32 are allowed"),
}


@pytest.mark.parametrize(("body", "message"), TAMPERED.values(), ids=TAMPERED)
def test_tampered(body: bytes, message: str) -> None:
    refused(body, f"^Failed to authenticate request 0x[0-9a-f]{{64}} due to: {message}")


def test_a_key_that_is_not_canonical() -> None:
    der = b"\x30\x81" + ALICE.public_key_der[1:]
    fields = content(sender=principal.self_authenticating(der))
    signature = ALICE.sign(b"\x0aic-request" + hash_of(fields))
    body = cbor.encode({"content": fields, "sender_pubkey": der, "sender_sig": signature})
    refused(body, "Invalid signature: Invalid public key: Malformed public key")


UNTIL_NS = NOW_NS + SECOND_NS
DELEGATED = envelope.delegate(ALICE, BOB, UNTIL_NS, [CANISTER])


def chain_of(n: int) -> Delegated:
    made: Identity | Delegated = ALICE
    for _ in range(n):
        made = envelope.delegate(made, Identity.generate(), UNTIL_NS)
    assert isinstance(made, Delegated)
    return made


def forged(**fields: Encodable) -> Delegated:
    """A delegation whose content was changed after it was signed."""
    (signed,) = DELEGATED.chain
    inner: Any = signed["delegation"]
    return Delegated(DELEGATED.pubkey, ({**signed, "delegation": {**inner, **fields}},), DELEGATED.signer)


BADLY_DELEGATED: Mapping[str, tuple[Delegated, str]] = {
    "expired": (
        envelope.delegate(ALICE, BOB, NOW_NS - 1),
        "^Invalid delegation expiry: Specified sender delegation has expired:\nProvided expiry: ",
    ),
    "for another canister": (
        envelope.delegate(ALICE, BOB, UNTIL_NS, [OTHER]),
        "due to: Canister '[a-z0-9-]*' is not one of the delegation targets.$",
    ),
    "for none": (envelope.delegate(ALICE, BOB, UNTIL_NS, []), "is not one of the delegation targets"),
    "for different ones in turn": (
        envelope.delegate(envelope.delegate(ALICE, BOB, UNTIL_NS, [OTHER]), CAROL, UNTIL_NS, [CANISTER]),
        "is not one of the delegation targets",
    ),
    "more targets than signed": (forged(targets=[CANISTER, OTHER]), "due to: Invalid delegation: Invalid basic sign"),
    "longer than signed": (forged(expiration=UNTIL_NS + 1), "due to: Invalid delegation: Invalid basic signature"),
    "to somebody else": (forged(pubkey=CAROL.public_key_der), "due to: Invalid delegation: Invalid basic signature"),
    "signed by another": (Delegated(CAROL.public_key_der, DELEGATED.chain, BOB), "Invalid delegation: Invalid basic"),
    "used by another": (Delegated(DELEGATED.pubkey, DELEGATED.chain, CAROL), "due to: Invalid signature: Invalid bas"),
    "too long": (chain_of(21), "Chain of delegations is too long: got 21 delegations, but at most 20 are allowed"),
    "a circle": (
        envelope.delegate(envelope.delegate(ALICE, BOB, UNTIL_NS), ALICE, UNTIL_NS),
        "Chain of delegations contains at least one cycle: first repeating public key encountered",
    ),
    "too many targets": (
        envelope.delegate(ALICE, BOB, UNTIL_NS, [number.to_bytes(4, "big") for number in range(1001)]),
        "expected at most 1000 targets per delegation, but got 1001",
    ),
}


@pytest.mark.parametrize(("sender", "message"), BADLY_DELEGATED.values(), ids=BADLY_DELEGATED)
def test_badly_delegated(sender: Delegated, message: str) -> None:
    refused(sealed(sender=sender), message)


def test_a_chain_of_twenty() -> None:
    assert opened(sealed(sender=chain_of(20))) is None


def test_paths() -> None:
    refused(sealed("read_state", paths=[[b"time"]] * 1001), "^Too many paths .* got 1001 paths", "read_state")
    refused(sealed("read_state", paths=[[b"x"] * 128]), "^At least one path .* too deep: got 128", "read_state")
    assert opened(sealed("read_state", paths=[[b"x"] * 127, []]), "read_state") is None


MALFORMED = {
    "nothing": b"",
    "text": b"hello",
    "a list": cbor.encode([1]),
    "no content": cbor.encode({}),
    "a tag inside": b"\xa1\x67content\xd8\x1c\xa0",
    "no method": changed(sealed(), content__method_name=None),
    "a number as argument": changed(sealed(), content__arg=5),
    "a long principal": changed(sealed(), content__sender=bytes(30)),
    "a late expiry": changed(sealed(), content__ingress_expiry=-1),
    "another kind": sealed("query"),
    "a key without signature": changed(sealed(), sender_sig=None),
    "a signature without key": changed(sealed(), sender_pubkey=None),
    "a text as key": changed(sealed(), sender_pubkey="key"),
    "half a delegation": changed(sealed(), sender_delegation=[{"signature": b""}]),
    "delegations that are no list": changed(sealed(), sender_delegation={"signature": b""}),
    "a float in the content": changed(sealed(), content__extra=True),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed(body: bytes) -> None:
    refused(body, "^Could not parse body as call request: ")


# -- fuzz: nothing but EnvelopeError ever comes out


def attempt(body: bytes) -> None:
    with contextlib.suppress(EnvelopeError):
        opened(body)


@given(st.binary(max_size=300))
def test_random_bytes(body: bytes) -> None:
    attempt(body)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([sealed(), sealed(sender=BOB), sealed(sender=DELEGATED)]), st.data())
def test_no_changed_byte_makes_another_good_request(body: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(body) - 1))
    mutated = bytearray(body)
    mutated[position] ^= data.draw(st.integers(1, 255))
    try:
        request = envelope.read(bytes(mutated), "call")
        envelope.verify(request, NOW_NS)
    except EnvelopeError:
        return
    assert request == envelope.read(body, "call")  # a byte that does not matter, such as a length in longer form


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.none() | st.integers() | st.binary(max_size=40) | st.text(max_size=5) | st.lists(st.binary())
            for name in (
                *("content", "sender_pubkey", "sender_sig", "sender_delegation", "content__sender", "content__arg"),
                *("content__canister_id", "content__ingress_expiry", "content__nonce", "content__new"),
            )
        },
    )
)
def test_fields_of_any_type(fields: dict[str, Any]) -> None:
    top = {name: value for name, value in fields.items() if "__" not in name}
    inner = {name: value for name, value in fields.items() if "__" in name}
    try:
        body = changed(changed(sealed(sender=DELEGATED), **inner), **top)
    except TypeError:
        return  # a number that has no form in CBOR
    attempt(body)
