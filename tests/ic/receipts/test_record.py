"""Records: one form, whatever they hold, and nothing else is one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.ic.receipts import record as records
from canister.ic.receipts.record import PARTS, ChatPart, Record, RecordError

_number = st.integers(0, (1 << 63) - 1)
_hash = st.binary(min_size=32, max_size=32)
chats = st.builds(
    ChatPart,
    st.text(max_size=40),
    *[_number] * 9,
    st.integers(-1, 1 << 31),
    st.booleans(),
    st.booleans(),
    _hash,
    _hash,
)
some = st.builds(
    Record,
    _number,
    _number,
    _hash,
    _hash,
    st.binary(max_size=29),
    st.text(max_size=30),
    st.booleans(),
    st.sampled_from(records.OUTCOMES),
    _hash,
    _hash,
    _number,
    _number,
    st.dictionaries(st.sampled_from(PARTS), st.integers(1, 1 << 40)),
    st.none() | chats,
    st.none() | _number,
)


@given(some)
def test_that_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert records.decode(records.encode(record)) == record


@given(some, st.data())
def test_that_changed_bytes_are_another_record_or_none(record: Record, data: st.DataObject) -> None:
    whole = records.encode(record)
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    changed = bytearray(whole)
    changed[at // 8] ^= 1 << at % 8
    with contextlib.suppress(RecordError):
        assert records.decode(bytes(changed)) != record


@given(st.binary(max_size=300))
def test_that_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(RecordError):
        assert records.encode(records.decode(data)) == data


def test_that_a_number_or_a_part_without_a_place_is_refused() -> None:
    whole = Record(0, 1, bytes(32), bytes(32), b"\4", "x", False, "ok", bytes(32), bytes(32), 0, 0, {"base": 1})
    for wrong in ({"parts": {"tea": 1}}, {"cycles": -1}, {"index": 1 << 64}):
        fields = {name: getattr(whole, name) for name in Record.__dataclass_fields__}
        with pytest.raises(RecordError):
            records.encode(Record(**{**fields, **wrong}))
