"""CBOR: what was encoded is decoded, and whatever else comes is refused at once, with one kind of error."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.ic import cbor

SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(1 << 64), max_value=(1 << 64) - 1)
    | st.binary(max_size=40)
    | st.text(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_there_and_back(value: Any) -> None:
    assert cbor.decode(cbor.encode(value)) == value


# RFC 8949, appendix A, as far as the IC uses it; and tag 55799, which agents put in front
KNOWN = {
    "00": 0,
    "1818": 24,
    "1b000000e8d4a51000": 1_000_000_000_000,
    "1bffffffffffffffff": 18_446_744_073_709_551_615,
    "3903e7": -1000,
    "f4": False,
    "f5": True,
    "f6": None,
    "4401020304": b"\1\2\3\4",
    "62c3bc": "ü",
    "8301820203820405": [1, [2, 3], [4, 5]],
    "a26161016162820203": {"a": 1, "b": [2, 3]},
    "5f42010243030405ff": b"\1\2\3\4\5",
    "7f657374726561646d696e67ff": "streaming",
    "9f018202039f0405ffff": [1, [2, 3], [4, 5]],
    "bf61610161629f0203ffff": {"a": 1, "b": [2, 3]},
    "d9d9f7a0": {},
}


@pytest.mark.parametrize(("data", "value"), KNOWN.items())
def test_known_encodings(data: str, value: Any) -> None:
    assert cbor.decode(bytes.fromhex(data)) == value


REFUSED = {
    "nothing": "",
    "two values": "0000",
    "a float": "fb3ff199999999999a",
    "a big number": "c249010000000000000000",
    "a date": "c074323031332d30332d32315432303a30343a30305a",
    "a tag inside": "81d9d9f700",
    "the tag twice": "d9d9f7d9d9f700",
    "a shared value": "d81c80",
    "half an array": "8201",
    "half a number": "1b0000",
    "half a text": "6361",
    "text that is none": "61ff",
    "a key twice": "a2616101616102",
    "a key that is a list": "a18001",
    "an array of 2^63": "9b7fffffffffffffff",
    "a byte string of 2^63": "5b7fffffffffffffff",
    "an endless array": "9f00",
    "a break alone": "ff",
    "pieces of two kinds": "5f41016162ff",
    "reserved": "1c",
    "undefined simple value": "f8ff",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(data: str) -> None:
    with pytest.raises(cbor.CborError):
        cbor.decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    "data",
    [b"\x81" * 1_000_000, b"\x9f" * 1_000_000, b"\x99\xff\xff" * 100_000, b"\x9a\x00\x1f\xff\xff" + bytes(2_000_000)],
    ids=["deep", "deep and endless", "wide and deep", "two million numbers"],
)
def test_work_is_bounded(data: bytes) -> None:
    with pytest.raises(cbor.CborError):
        cbor.decode(data)


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except cbor.CborError:
        return
    assert cbor.decode(cbor.encode(value)) == value  # type: ignore[arg-type]


@given(VALUES, st.data())
def test_mutated_bytes(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(cbor.encode(value))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(cbor.CborError):
        cbor.decode(bytes(encoded))


def test_what_has_no_form() -> None:
    for value in (1.5, {1, 2}, 1 << 64):
        with pytest.raises(TypeError):
            cbor.encode(value)  # type: ignore[arg-type]
