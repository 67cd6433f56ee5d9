"""Envelopes: requests as clients send them, signed, perhaps by a key that another one has delegated to. No I/O.

    {content, sender_pubkey?, sender_sig?, sender_delegation?}
    sender_delegation: [{delegation: {pubkey, expiration, targets?}, signature}]

`read` takes an envelope apart, `verify` decides whether its sender has sent it; both raise EnvelopeError, whose text is
the IC's own. `seal` and `delegate` are the other side. Keys are DER, times nanoseconds since 1970, principals bytes.
Source: IC interface specification, "Authentication"; limits are the main network's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from canister.ic import cbor, keys, principal
from canister.ic.cbor import Encodable
from canister.ic.identity import Identity
from canister.ic.request_id import HashError, hash_of

RequestKind = Literal["call", "query", "read_state"]
Path = tuple[bytes, ...]

MAX_DELEGATIONS = 20
MAX_TARGETS = 1000
MAX_NONCE_BYTES = 32
MAX_PATHS = 1000
MAX_LABELS = 127
MAX_EXPIRY_NS = 6 * 60 * 10**9  # five minutes, and one for differing clocks

_REQUEST = b"\x0aic-request"
_DELEGATION = b"\x1aic-request-auth-delegation"


class EnvelopeError(ValueError):
    """A request that does not count."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """pubkey: the key that may sign from here on. targets None: for every canister."""

    pubkey: bytes
    expiration_ns: int
    targets: frozenset[bytes] | None
    digest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """pubkey: the sender's; the last delegation's key, else this one, has signed."""

    pubkey: bytes
    signature: bytes
    delegations: tuple[Delegation, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """canister_id, method and arg are empty in a read_state, paths elsewhere. signature None: not signed."""

    kind: RequestKind
    id: bytes
    sender: bytes
    expiry_ns: int
    nonce: bytes
    canister_id: bytes
    method: str
    arg: bytes
    paths: tuple[Path, ...]
    signature: Signature | None

    @property
    def is_anonymous(self) -> bool:
        return self.sender == principal.ANONYMOUS_BYTES


# -- reading


def read(body: bytes, kind: RequestKind) -> Request:
    """The request in an envelope, not yet verified. EnvelopeError for bytes that are no envelope of this kind."""
    try:
        envelope = _Fields(cbor.decode(body), "the envelope")
        content = _Fields(envelope.get("content"), "the content")
        if content.text("request_type") != kind:
            raise EnvelopeError(f"request_type is {content.text('request_type')[:20]!r}, not {kind!r}")
        is_message = kind != "read_state"
        return Request(
            kind=kind,
            id=hash_of(content.fields),
            sender=content.principal("sender"),
            expiry_ns=content.nat64("ingress_expiry"),
            nonce=content.blob("nonce") if content.has("nonce") else b"",
            canister_id=content.principal("canister_id") if is_message else b"",
            method=content.text("method_name") if is_message else "",
            arg=content.blob("arg") if is_message else b"",
            paths=() if is_message else tuple(_path(path) for path in content.array("paths")),
            signature=_signature(envelope),
        )
    except (EnvelopeError, cbor.CborError, HashError) as error:
        raise EnvelopeError(f"Could not parse body as {kind} request: {error}") from None


class _Fields:
    """A map whose fields must each have their type."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise EnvelopeError(f"{what} is missing, or is no map")
        self.fields: Mapping[object, object] = value

    def has(self, name: str) -> bool:
        """Is the field there, and not null?"""
        return self.fields.get(name) is not None

    def get(self, name: str) -> object:
        return self.fields.get(name)

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise EnvelopeError(f"field {name} is missing, or is no text")
        return value

    def blob(self, name: str) -> bytes:
        value = self.fields.get(name)
        if not isinstance(value, bytes):
            raise EnvelopeError(f"field {name} is missing, or is no byte string")
        return value

    def principal(self, name: str) -> bytes:
        return _principal(self.blob(name), f"field {name}")

    def nat64(self, name: str) -> int:
        value = self.fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
            raise EnvelopeError(f"field {name} is missing, or is no 64-bit number")
        return value

    def array(self, name: str) -> list[object]:
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise EnvelopeError(f"field {name} is missing, or is no array")
        return value


def _principal(value: object, what: str) -> bytes:
    if not isinstance(value, bytes) or len(value) > principal.MAX_BYTES:
        raise EnvelopeError(f"{what} is no principal: a byte string of at most {principal.MAX_BYTES}")
    return value


def _path(value: object) -> Path:
    labels = value if isinstance(value, list) else [None]
    path = tuple(label for label in labels if isinstance(label, bytes))
    if len(path) != len(labels):
        raise EnvelopeError("a path is no array of byte strings")
    return path


def _signature(envelope: _Fields) -> Signature | None:
    if not any(envelope.has(name) for name in ("sender_pubkey", "sender_sig", "sender_delegation")):
        return None
    delegations = envelope.array("sender_delegation") if envelope.has("sender_delegation") else []
    return Signature(
        pubkey=envelope.blob("sender_pubkey"),
        signature=envelope.blob("sender_sig"),
        delegations=tuple(_delegation(item) for item in delegations),
    )


def _delegation(value: object) -> Delegation:
    signed = _Fields(value, "a delegation")
    inner = _Fields(signed.get("delegation"), "a delegation's content")
    targets = None
    if inner.has("targets"):
        targets = frozenset(_principal(target, "a target") for target in inner.array("targets"))
        if len(inner.array("targets")) > MAX_TARGETS:
            raise EnvelopeError(
                f"Delegation target error: expected at most {MAX_TARGETS} targets per delegation, "
                f"but got {len(inner.array('targets'))}"
            )
    return Delegation(
        pubkey=inner.blob("pubkey"),
        expiration_ns=inner.nat64("expiration"),
        targets=targets,
        digest=hash_of(inner.fields),
        signature=signed.blob("signature"),
    )


# -- believing


def verify(request: Request, now_ns: int) -> frozenset[bytes] | None:
    """The canisters that the sender may mean by this request, None for all. EnvelopeError if the request is not good.

    Queries and read_states of the anonymous caller may be of any age, since clients with a wrong clock set it by them.
    """
    _check_paths(request.paths)
    if request.kind == "call" or not request.is_anonymous:
        _check_expiry(request.expiry_ns, now_ns)
    try:
        targets = _verified_sender(request, now_ns)
    except _Unauthenticated as error:
        raise EnvelopeError(f"Failed to authenticate request 0x{request.id.hex()} due to: {error}") from None
    if request.kind != "read_state" and targets is not None and request.canister_id not in targets:
        name = principal.to_text(request.canister_id)
        raise EnvelopeError(
            f"Failed to authenticate request 0x{request.id.hex()} due to: "
            f"Canister '{name}' is not one of the delegation targets."
        )
    return targets


class _Unauthenticated(Exception):
    pass


def _check_paths(paths: Sequence[Path]) -> None:
    if len(paths) > MAX_PATHS:
        raise EnvelopeError(
            f"Too many paths in read state request: got {len(paths)} paths, but at most {MAX_PATHS} are allowed."
        )
    longest = max(map(len, paths), default=0)
    if longest > MAX_LABELS:
        raise EnvelopeError(
            f"At least one path in read state request is too deep: got {longest} labels, "
            f"but at most {MAX_LABELS} are allowed."
        )


def _check_expiry(expiry_ns: int, now_ns: int) -> None:
    latest = now_ns + MAX_EXPIRY_NS
    if not now_ns < expiry_ns <= latest:
        raise EnvelopeError(
            "Invalid request expiry: Specified ingress_expiry not within expected range: "
            f"Minimum allowed expiry: {_time(now_ns)}, Maximum allowed expiry: {_time(latest)}, "
            f"Provided expiry: {_time(expiry_ns)}"
        )


def _verified_sender(request: Request, now_ns: int) -> frozenset[bytes] | None:
    if len(request.nonce) > MAX_NONCE_BYTES:
        raise _Unauthenticated(
            f"Nonce in request is too big: got {len(request.nonce)} bytes, but at most {MAX_NONCE_BYTES} are allowed."
        )
    signature = request.signature
    if request.is_anonymous:
        if signature is not None:
            raise _Unauthenticated("Signature is not allowed for the anonymous user.")
        return None
    name = principal.to_text(request.sender)
    if signature is None:
        raise _Unauthenticated(f"Missing signature from user: {name}")
    if principal.self_authenticating(signature.pubkey) != request.sender:
        raise _Unauthenticated(f"The user id '{name}' does not match the public key '{signature.pubkey[:256].hex()}'")
    signer, targets = _follow(signature.pubkey, signature.delegations, now_ns)
    _check(signer, signature.signature, _REQUEST + request.id, "Invalid signature")
    return targets


def _follow(pubkey: bytes, chain: Sequence[Delegation], now_ns: int) -> tuple[bytes, frozenset[bytes] | None]:
    """The key at the end of a chain of delegations, and the canisters that all of them allow."""
    if len(chain) > MAX_DELEGATIONS:
        raise _Unauthenticated(
            f"Invalid delegation: Chain of delegations is too long: got {len(chain)} delegations, "
            f"but at most {MAX_DELEGATIONS} are allowed."
        )
    seen = {pubkey}
    for delegation in chain:
        if delegation.expiration_ns < now_ns:
            raise EnvelopeError(
                "Invalid delegation expiry: Specified sender delegation has expired:\n"
                f"Provided expiry:    {_time(delegation.expiration_ns)}\nLocal replica time: {_time(now_ns)}"
            )
        if delegation.pubkey in seen:
            raise _Unauthenticated(
                "Invalid delegation: Chain of delegations contains at least one cycle: "
                f"first repeating public key encountered {delegation.pubkey[:256].hex()}"
            )
        seen.add(delegation.pubkey)
    targets: frozenset[bytes] | None = None
    for delegation in chain:
        _check(pubkey, delegation.signature, _DELEGATION + delegation.digest, "Invalid delegation")
        if delegation.targets is not None:
            targets = delegation.targets if targets is None else targets & delegation.targets
        pubkey = delegation.pubkey
    return pubkey, targets


def _check(pubkey: bytes, signature: bytes, message: bytes, what: str) -> None:
    try:
        keys.verify(pubkey, signature, message)
    except keys.InvalidKey as error:
        raise _Unauthenticated(f"{what}: Invalid public key: {error}") from None
    except keys.WrongSignature as error:
        raise _Unauthenticated(f"{what}: Invalid basic signature: {error}") from None


def _time(ns: int) -> str:
    """As the IC prints times."""
    seconds, fraction = divmod(ns, 10**9)
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    return f"{date}.{fraction:09d} UTC" if fraction else f"{date} UTC"


# -- writing


@dataclass(frozen=True, slots=True)
class Delegated:
    """A signer for somebody else. chain: as `sender_delegation` of an envelope."""

    pubkey: bytes
    chain: tuple[Mapping[str, Encodable], ...]
    signer: Identity

    @property
    def principal(self) -> str:
        """Whom it signs for."""
        return principal.to_text(principal.self_authenticating(self.pubkey))


def delegate(
    giver: Identity | Delegated, taker: Identity, expiration_ns: int, targets: Sequence[bytes] | None = None
) -> Delegated:
    """Let `taker` sign for `giver` until then, for these canisters only (None: for all)."""
    content: dict[str, Encodable] = {"pubkey": taker.public_key_der, "expiration": expiration_ns}
    if targets is not None:
        content["targets"] = list(targets)
    signer = giver.signer if isinstance(giver, Delegated) else giver
    signed: dict[str, Encodable] = {"delegation": content, "signature": signer.sign(_DELEGATION + hash_of(content))}
    if isinstance(giver, Delegated):
        return Delegated(giver.pubkey, (*giver.chain, signed), taker)
    return Delegated(giver.public_key_der, (signed,), taker)


def seal(content: Mapping[str, Encodable], sender: Identity | Delegated | None) -> tuple[bytes, bytes]:
    """The envelope of a request, and its id. The sender is put into the content; None: the anonymous caller."""
    if sender is None:
        content = {**content, "sender": principal.ANONYMOUS_BYTES}
        return cbor.encode({"content": content}), hash_of(content)
    delegated = sender if isinstance(sender, Delegated) else Delegated(sender.public_key_der, (), sender)
    content = {**content, "sender": principal.self_authenticating(delegated.pubkey)}
    request_id = hash_of(content)
    envelope: dict[str, Encodable] = {
        "content": content,
        "sender_pubkey": delegated.pubkey,
        "sender_sig": delegated.signer.sign(_REQUEST + request_id),
    }
    if delegated.chain:
        envelope["sender_delegation"] = delegated.chain
    return cbor.encode(envelope), request_id
