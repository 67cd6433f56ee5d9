"""Certificates: a hash tree and a BLS signature of its root hash, made here and checked. Pure functions, no I/O.

Signatures are points of G1 (48 bytes), public keys points of G2 (96 bytes behind a fixed DER header), on BLS12-381. A
server acts as the root subnet and certifies with the root key itself. Certificates of another subnet, with the root's
delegation to it, are checked too. Source: IC interface specification, "Certification" and "Certificate".
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from canister.ic import cbor, hash_tree, principal, request_id
from canister.ic.hash_tree import Content, Tree

DER_HEADER = bytes.fromhex("308182301d060d2b0601040182dc7c0503010201060c2b0601040182dc7c05030201036100")
PUBLIC_KEY_BYTES = 96
MAX_AGE_NS = 5 * 60 * 10**9  # of a certificate, and how far its time may lie ahead

_DOMAIN = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
_STATE_ROOT = b"\x0dic-state-root"
_ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


class CertificateError(ValueError):
    """Bytes that are no certificate, or one that proves nothing to us. The message says why."""


@dataclass(frozen=True, slots=True)
class RootKey:
    """The key of a subnet that certifies for itself. public_key_der: 133 bytes."""

    public_key_der: bytes
    _secret: Scalar = field(repr=False, compare=False)

    @classmethod
    def generate(cls) -> RootKey:
        """A new key, from the system's random source."""
        return cls._of(secrets.randbelow(_ORDER - 1) + 1)

    @classmethod
    def from_bytes(cls, secret: bytes) -> RootKey:
        """The key in 32 bytes as `to_bytes` gives them. CertificateError."""
        number = int.from_bytes(secret, "big")
        if len(secret) != 32 or not 0 < number < _ORDER:
            raise CertificateError("no BLS12-381 secret key: 32 bytes, a number below the order of the group")
        return cls._of(number)

    @classmethod
    def _of(cls, number: int) -> RootKey:
        secret = Scalar.from_be_bytes(number.to_bytes(32, "big"))
        return cls(DER_HEADER + (G2Point() * secret).to_compressed_bytes(), secret)

    @property
    def subnet_id(self) -> bytes:
        """The principal of the subnet whose key this is."""
        return principal.self_authenticating(self.public_key_der)

    def to_bytes(self) -> bytes:
        """The secret, 32 bytes. Whoever has it can certify anything."""
        return self._secret.to_be_bytes()

    def sign(self, message: bytes) -> bytes:
        """48 bytes."""
        return (G1Point.hash_to_curve(message, _DOMAIN) * self._secret).to_compressed_bytes()

    def certify(self, content: Mapping[bytes, Content], time_ns: int) -> bytes:
        """A certificate of `content` and the time."""
        tree = hash_tree.build({**content, b"time": request_id.leb128(time_ns)})
        signature = self.sign(_STATE_ROOT + hash_tree.digest(tree))
        return cbor.encode({"tree": hash_tree.to_value(tree), "signature": signature})


def verify_signature(public_key_der: bytes, signature: bytes, message: bytes) -> None:
    """Check that `signature` is one of `message` by this key. Raises CertificateError."""
    if not public_key_der.startswith(DER_HEADER) or len(public_key_der) != len(DER_HEADER) + PUBLIC_KEY_BYTES:
        raise CertificateError("the public key is no BLS12-381 key in DER form")
    try:
        key = G2Point.from_compressed_bytes(public_key_der[len(DER_HEADER) :])
        point = G1Point.from_compressed_bytes(signature)
    except ValueError as error:
        raise CertificateError(f"the key or the signature is no point of its group: {error}") from None
    if key == G2Point.identity():
        raise CertificateError("the public key is the point at infinity, for which everything is signed")
    hashed = G1Point.hash_to_curve(message, _DOMAIN)
    if not GT.pairing_check([point, -hashed], [G2Point(), key]):
        raise CertificateError("the signature does not belong to what the certificate says")


def verify(data: bytes, root_key_der: bytes, canister_id: bytes, now_ns: int) -> Tree:
    """What a certificate says about a canister, if the root key stands for it and it is fresh. Raises
    CertificateError.
    """
    tree, time_ns = verify_of_any_age(data, root_key_der, canister_id)
    if abs(now_ns - time_ns) > MAX_AGE_NS:
        raise CertificateError(
            f"the certificate is {(now_ns - time_ns) / 1e9:.0f} s old, at most {MAX_AGE_NS / 1e9:.0f} count: "
            "is this machine's clock right?"
        )
    return tree


def verify_of_any_age(data: bytes, root_key_der: bytes, canister_id: bytes) -> tuple[Tree, int]:
    """As `verify`, for what was certified long ago; with the certificate's time in ns since 1970."""
    tree = _verified(data, root_key_der, canister_id, may_delegate=True)
    try:
        return tree, request_id.from_leb128(hash_tree.leaf(tree, b"time") or b"")
    except ValueError as error:
        raise CertificateError(f"the certificate tells no time: {error}") from None


def ranges_of(canister_ids: Iterable[bytes]) -> bytes:
    """`canister_ranges` of a subnet that holds these canisters, each a range of its own."""
    return cbor.encode([[canister_id, canister_id] for canister_id in sorted(canister_ids)])


def _verified(data: bytes, root_key_der: bytes, canister_id: bytes, *, may_delegate: bool) -> Tree:
    """The tree of a certificate whose signature holds."""
    try:
        document = cbor.decode(data)
    except cbor.CborError as error:
        raise CertificateError(f"the certificate is not CBOR: {error}") from None
    match document:
        case {"tree": value, "signature": bytes(signature), **rest}:
            pass
        case _:
            raise CertificateError("a certificate is a map with a tree and a signature")
    try:
        tree = hash_tree.from_value(value)
    except hash_tree.TreeError as error:
        raise CertificateError(str(error)) from None
    key = root_key_der
    match rest.get("delegation"):
        case None:
            pass
        case {"subnet_id": bytes(subnet_id), "certificate": bytes(certificate)} if may_delegate:
            above = _verified(certificate, root_key_der, canister_id, may_delegate=False)
            key = _delegated_key(above, subnet_id, canister_id)
        case _:
            raise CertificateError("the delegation is not a subnet's, or delegates once more")
    verify_signature(key, signature, _STATE_ROOT + hash_tree.digest(tree))
    return tree


def _delegated_key(tree: Tree, subnet_id: bytes, canister_id: bytes) -> bytes:
    """The key of a subnet that the root has given this canister to."""
    try:
        key = hash_tree.leaf(tree, b"subnet", subnet_id, b"public_key")
        shards = hash_tree.find(tree, [b"canister_ranges", subnet_id])
        parts = [node for _, node in hash_tree.children(shards or hash_tree.Empty())]
        flat = hash_tree.find(tree, [b"subnet", subnet_id, b"canister_ranges"])
    except hash_tree.TreeError as error:
        raise CertificateError(f"the delegation is not a subnet's: {error}") from None
    if key is None:
        raise CertificateError("the delegation does not tell the subnet's key")
    ranges = [node.value for node in (flat, *parts) if isinstance(node, hash_tree.Leaf)]
    if not any(_is_in(canister_id, data) for data in ranges):
        raise CertificateError(f"the subnet does not hold canister {principal.to_text(canister_id)}")
    return key


def _is_in(canister_id: bytes, ranges: bytes) -> bool:
    try:
        document = cbor.decode(ranges)
    except cbor.CborError as error:
        raise CertificateError(f"the ranges of a subnet are not CBOR: {error}") from None
    for item in document if isinstance(document, list) else []:
        match item:
            case [bytes(low), bytes(high)] if low <= canister_id <= high:
                return True
    return False


def query_response_message(response: Mapping[str, object], timestamp_ns: int, id: bytes) -> bytes:
    """What a node signs of its answer to a query."""
    fields = {**response, "timestamp": timestamp_ns, "request_id": id}
    return b"\x0bic-response" + request_id.hash_of(fields)
