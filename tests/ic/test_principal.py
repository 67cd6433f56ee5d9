"""Principals: text form and derivation, against values that others have published."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.ic import principal as principals

KNOWN = {
    b"": "aaaaa-aa",
    b"\x04": "2vxsx-fae",
    b"\xab\xcd\x01": "em77e-bvlzu-aq",  # IC interface specification, "Textual representation of principals"
    bytes.fromhex("00000000000000020101"): "ryjl3-tyaaa-aaaaa-aaaba-cai",  # the ICP ledger
    bytes.fromhex("00000000000000070101"): "rdmx6-jaaaa-aaaaa-aaadq-cai",  # Internet Identity
}


@pytest.mark.parametrize(("data", "text"), KNOWN.items())
def test_known_principals(data: bytes, text: str) -> None:
    assert principals.to_text(data) == text
    assert principals.from_text(text) == data


@given(st.binary(max_size=29))
def test_text_and_back(data: bytes) -> None:
    assert principals.from_text(principals.to_text(data)) == data


@given(st.text(max_size=80))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        data = principals.from_text(text)
    except principals.PrincipalError:
        return
    assert principals.to_text(data) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2vxsx-faf",  # checksum
        "2VXSX-FAE",  # one form only: lower case
        "2vxsxfae",  # and dashes where they belong
        "2vxsx-fae-",
        " 2vxsx-fae",
        "2vxsx-fa1",
        "ryjl3-tyaaa-aaaaa-aaaba-ca",
        "a" * 1_000_000,
    ],
)
def test_near_misses_are_refused(text: str) -> None:
    with pytest.raises(principals.PrincipalError):
        principals.from_text(text)


def test_too_many_bytes() -> None:
    with pytest.raises(principals.PrincipalError, match="at most 29 bytes, this one has 30"):
        principals.to_text(bytes(30))


def test_self_authenticating() -> None:
    principal = principals.self_authenticating(b"a public key in DER form")
    assert len(principal) == 29
    assert principal[-1] == 2
    assert principal != principals.self_authenticating(b"another")


def test_canister_ids_differ_and_look_like_canister_ids() -> None:
    ids = [principals.canister_id(index) for index in range(100)]
    assert len(set(ids)) == 100
    assert all(text.endswith("-cai") and len(principals.from_text(text)) == 10 for text in ids)
