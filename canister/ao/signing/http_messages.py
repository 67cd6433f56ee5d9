"""HTTP requests that wallets sign (RFC 9421), as AO's clients do: all fields, never the path; a body by its digest.

What is not signed is not told: `Signed` has the signed fields alone. A signature has one text, since a message's id is
the hash of that text, and whoever could write it in another way could send a message twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes

from canister.ao.encoding import Malformed, WrongSignature, from_base64url, sha256, to_base64url
from canister.ao.signing import http_fields, kinds
from canister.ao.signing.http_fields import SignatureInput
from canister.ao.signing.wallets import ArweaveWallet

ALGORITHM = "rsa-pss-sha512"
SIGNATURE, SIGNATURE_INPUT, CONTENT_DIGEST = "signature", "signature-input", "content-digest"
_DIGESTS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
_LABEL_BYTES = slice(1, 9)  # of the address


@dataclass(frozen=True, slots=True)
class Request:
    """fields: headers by lower-case name, those that came more than once joined with `, `. path: without the query."""

    method: str
    path: str
    fields: Mapping[str, str]
    body: bytes = b""
    query: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Signed:
    """id: of the message. fields: those that were signed, without derived ones such as `@path`."""

    id: str
    address: str
    owner: bytes
    fields: Mapping[str, str] = field(repr=False)


def verify(request: Request, now_seconds: float | None = None) -> Signed | None:
    """Who signed a request, and what of it; None when it has no signature.

    now_seconds: Unix time, against which `expires` is checked where it is signed. Raises Malformed, WrongSignature.
    """
    header = request.fields.get(SIGNATURE)
    if header is None and SIGNATURE_INPUT not in request.fields:
        return None
    if header is None or SIGNATURE_INPUT not in request.fields:
        raise Malformed(f"of the fields {SIGNATURE} and {SIGNATURE_INPUT} only one is there")
    asked = http_fields.read_signature_input(request.fields[SIGNATURE_INPUT])
    label, signature = http_fields.read_signature(header)
    owner = _owner(asked)
    address = kinds.hashed_address(owner)
    if not label == asked.label == label_of(owner):
        raise Malformed(f"the label of a signature by {address} is {label_of(owner)}, in both fields")
    if len(set(asked.names)) != len(asked.names):
        raise Malformed("a name is signed twice")
    message = _base(request, asked.names, asked.text)
    if not kinds.is_rsa_signed(owner, signature, message, hashes.SHA512()):
        raise WrongSignature("the signature of the request does not verify")
    expires = asked.parameters.get("expires")
    if expires is not None and now_seconds is not None and (not isinstance(expires, int) or expires < now_seconds):
        raise WrongSignature("the signature of the request has expired")
    _check_body(request, asked)
    fields = {name: request.fields[name] for name in asked.names if not name.startswith("@")}
    return Signed(to_base64url(sha256(header.encode())), address, owner, fields)


def sign(wallet: ArweaveWallet, request: Request) -> dict[str, str]:
    """All fields of the request, and with them those that sign it. A body gets its digest."""
    fields = dict(request.fields)
    if request.body:
        fields[CONTENT_DIGEST] = f"sha-256={http_fields.write_bytes(sha256(request.body))}"
    names = sorted(fields)
    text = http_fields.write_input(names, {"alg": ALGORITHM, "keyid": to_base64url(wallet.owner)})
    message = _base(Request(request.method, request.path, fields), names, text)
    label = label_of(wallet.owner)
    signature = http_fields.write_bytes(wallet.sign_http(message))
    return {**fields, SIGNATURE: f"{label}={signature}", SIGNATURE_INPUT: f"{label}={text}"}


def label_of(owner: bytes) -> str:
    return f"http-sig-{sha256(owner)[_LABEL_BYTES].hex()}"


def _owner(asked: SignatureInput) -> bytes:
    algorithm, key = asked.parameters.get("alg"), asked.parameters.get("keyid")
    if algorithm != ALGORITHM:
        raise Malformed(f"the algorithm of the signature is {str(algorithm)[:40]!r}; {ALGORITHM} is taken here")
    if not isinstance(key, str):
        raise Malformed("signature-input has no keyid, the key that signed")
    return from_base64url(key, "the keyid")


def _base(request: Request, names: tuple[str, ...] | list[str], text: str) -> bytes:
    """The text that is signed: a line a name, and the list of names itself."""
    lines = [f'"{name}": {_value(request, name)}' for name in names]
    return "\n".join([*lines, f'"@signature-params": {text}']).encode()


def _value(request: Request, name: str) -> str:
    derived = {
        "@method": request.method.upper(),
        "@path": request.path or "/",
        "@query": f"?{request.query}",
        "@request-target": request.path + (f"?{request.query}" if request.query else ""),
        "@authority": request.authority.lower(),
    }
    if name in derived:
        return derived[name]
    if name not in request.fields or name in (SIGNATURE, SIGNATURE_INPUT):
        raise Malformed(f"the signed field {name[:80]!r} is not in the request")
    return request.fields[name].strip()


def _check_body(request: Request, asked: SignatureInput) -> None:
    if CONTENT_DIGEST not in request.fields:
        if request.body:
            raise WrongSignature("the body is not signed: a signed content-digest must tell its hash")
        return
    if CONTENT_DIGEST not in asked.names:
        raise WrongSignature("the field content-digest is not signed")
    digests = http_fields.read_digests(request.fields[CONTENT_DIGEST])
    known = {name: digest for name, digest in digests.items() if name in _DIGESTS}
    if not known:
        raise Malformed(f"content-digest has none of {', '.join(_DIGESTS)}")
    if any(_DIGESTS[name](request.body).digest() != digest for name, digest in known.items()):
        raise WrongSignature("content-digest does not match the body")
