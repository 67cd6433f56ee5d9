"""Signed HTTP requests: what is signed is told, and nothing that was changed on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.ao.encoding import Malformed, WrongSignature, sha256, to_base64url
from canister.ao.signing import http_messages
from canister.ao.signing.http_messages import Request, sign, verify
from canister.ao.signing.wallets import ArweaveWallet

FIELDS = {"action": "Eval", "target": "p" * 43, "data": "1 + 1", "x-reference": "7"}
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: name not in ("signature", "signature-input", "content-digest")
)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40)


@pytest.fixture
def signed(rsa_wallet: ArweaveWallet) -> Request:
    request = Request("POST", "/push", FIELDS, b"a\nbody")
    return replace(request, fields=sign(rsa_wallet, request))


def changed(request: Request, **fields: str | None) -> Request:
    merged = {**request.fields, **{name.replace("_", "-"): value for name, value in fields.items()}}
    return replace(request, fields={name: value for name, value in merged.items() if value is not None})


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(NAMES, VALUES, max_size=6), body=st.binary(max_size=50))
def test_what_is_signed_is_told(rsa_wallet: ArweaveWallet, fields: dict[str, str], body: bytes) -> None:
    request = Request("POST", "/push", fields, body)
    made = sign(rsa_wallet, request)
    found = verify(replace(request, fields={**made, "x-not-signed": "1"}))
    assert found is not None
    assert (found.address, found.owner) == (rsa_wallet.address, rsa_wallet.owner)
    assert {name: found.fields[name] for name in fields} == fields
    assert "x-not-signed" not in found.fields
    assert found.id == to_base64url(sha256(made["signature"].encode()))


def test_without_a_signature_there_is_nobody() -> None:
    assert verify(Request("POST", "/push", FIELDS)) is None


def test_what_was_changed_is_refused(signed: Request) -> None:
    assert verify(signed) is not None
    for name in FIELDS:
        with pytest.raises(WrongSignature, match="does not verify"):
            verify(changed(signed, **{name: "other"}))
    with pytest.raises(Malformed, match="'action' is not in the request"):
        verify(changed(signed, action=None))
    with pytest.raises(WrongSignature, match="does not match the body"):
        verify(replace(signed, body=b"another body"))
    with pytest.raises(WrongSignature, match="does not match the body"):
        verify(replace(signed, body=b""))


def test_a_body_must_be_signed(rsa_wallet: ArweaveWallet) -> None:
    fields = sign(rsa_wallet, Request("POST", "/push", FIELDS))
    with pytest.raises(WrongSignature, match="the body is not signed"):
        verify(Request("POST", "/push", fields, b"body"))
    with pytest.raises(WrongSignature, match="content-digest is not signed"):
        verify(Request("POST", "/push", {**fields, "content-digest": "sha-256=:AAAA:"}, b"body"))


def test_a_digest_may_be_as_aos_clients_send_it(rsa_wallet: ArweaveWallet) -> None:
    body = b"\xfb\xff"
    digest = to_base64url(sha256(body))
    fields = sign(rsa_wallet, Request("POST", "/", {**FIELDS, "content-digest": f"sha-256=:{digest}:"}))
    assert verify(Request("POST", "/", fields, body)) is not None


def test_a_signature_has_one_text(signed: Request) -> None:
    """Or a message could be sent twice, with two ids."""
    value = signed.fields["signature"]
    label, _, text = value.partition("=")
    forms = [
        f" {value}",
        f"{value} ",
        f"{label}x={text}",
        f"{value}, other=:AAAA:",
        value.rstrip(":=") + ":",
        f"{value};a",
        f"{label}={text[:-4]}{'A' if text[-4] != 'A' else 'B'}==:",
    ]
    for form in forms:
        with pytest.raises((Malformed, WrongSignature)):
            verify(changed(signed, signature=form))
    renamed = signed.fields["signature-input"].replace(label, "sig1")
    with pytest.raises(Malformed, match=f"is {label}, in both fields"):
        verify(changed(signed, signature=f"sig1={text}", signature_input=renamed))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "x=1",
        'x=("a"',
        'x=("a" "b)',
        'x=("a";sf);alg="rsa-pss-sha512";keyid="AQAB"',
        'x=("action" "action");alg="rsa-pss-sha512";keyid="AQAB"',
        'x=("action");alg="hmac-sha256";keyid="AQAB"',
        'x=("action");alg="rsa-pss-sha512"',
        'x=("action");alg="rsa-pss-sha512";keyid="A+B"',
        'x=("action");alg="rsa-pss-sha512";alg="rsa-pss-sha512";keyid="AQAB"',
        'x=("action"), y=("action")',
    ],
)
def test_damaged_lists_of_names_are_refused(signed: Request, value: str) -> None:
    with pytest.raises(Malformed):
        verify(changed(signed, signature_input=value))


def test_the_method_and_the_path_may_be_signed(rsa_wallet: ArweaveWallet) -> None:
    names = ["@method", "@path", "@query", "@authority", "action"]
    text = http_messages.http_fields.write_input(
        names, {"alg": "rsa-pss-sha512", "keyid": to_base64url(rsa_wallet.owner)}
    )
    values = ["POST", "/push", "?a=1", "node:80", "Eval"]
    lines = [f'"{name}": {value}' for name, value in zip(names, values, strict=True)]
    base = "\n".join([*lines, f'"@signature-params": {text}'])
    label = http_messages.label_of(rsa_wallet.owner)
    signature = http_messages.http_fields.write_bytes(rsa_wallet.sign_http(base.encode()))
    fields = {"action": "Eval", "signature": f"{label}={signature}", "signature-input": f"{label}={text}"}
    request = Request("post", "/push", fields, query="a=1", authority="Node:80")
    found = verify(request)
    assert found is not None
    assert found.fields == {"action": "Eval"}
    for other in (replace(request, path="/"), replace(request, method="PUT"), replace(request, query="a=2")):
        with pytest.raises(WrongSignature):
            verify(other)


def test_what_has_expired_is_refused(rsa_wallet: ArweaveWallet) -> None:
    text = f'("action");expires=100;alg="rsa-pss-sha512";keyid="{to_base64url(rsa_wallet.owner)}"'
    label = http_messages.label_of(rsa_wallet.owner)
    signature = rsa_wallet.sign_http(f'"action": Eval\n"@signature-params": {text}'.encode())
    fields = {
        "action": "Eval",
        "signature": f"{label}={http_messages.http_fields.write_bytes(signature)}",
        "signature-input": f"{label}={text}",
    }
    assert verify(Request("GET", "/", fields), now_seconds=99.0) is not None
    with pytest.raises(WrongSignature, match="expired"):
        verify(Request("GET", "/", fields), now_seconds=101.0)
