"""What a type is, how it is written, and which type is a subtype of which."""

from __future__ import annotations

import pytest
from hypothesis import given

from canister.ic.candid.types import (
    BLOB,
    BOOL,
    EMPTY,
    INT,
    NAT,
    NAT8,
    NAT64,
    NULL,
    RESERVED,
    TEXT,
    CandidError,
    Field,
    Opt,
    Record,
    Type,
    Variant,
    Vec,
    is_subtype,
    label_hash,
    tag_of,
    to_text,
)
from tests.ic.candid.strategies import TYPES, tuple_of


@pytest.mark.parametrize(
    ("label", "number"),
    [("", 0), ("id", 23_515), ("Ok", 17_724), ("Err", 3_456_837), ("description", 1_595_738_364), (7, 7)],
)
def test_hashes_of_labels(label: str | int, number: int) -> None:
    assert label_hash(label) == number


def test_fields_are_ordered_by_hash_on_the_wire_only() -> None:
    record = Record((Field("b", TEXT), Field("a", NAT)))
    assert [item.label for item in record.fields] == ["b", "a"]
    assert [item.label for item in record.by_hash.values()] == ["a", "b"]


def test_types_that_have_no_python_values_are_refused() -> None:
    for inner in (NULL, RESERVED, Opt(TEXT)):
        with pytest.raises(TypeError, match="None would mean two things"):
            Opt(inner)
    with pytest.raises(TypeError, match="have one hash"):
        Record((Field("a", TEXT), Field(97, TEXT)))


@pytest.mark.parametrize(
    ("of", "written"),
    [
        (NAT64, "nat64"),
        (BLOB, "blob"),
        (Vec(Opt(TEXT)), "vec opt text"),
        (Record(()), "record {}"),
        (Record((Field("from", TEXT), Field("principal", BLOB))), 'record { from : text; "principal" : blob }'),
        (Record((Field("it's", TEXT), Field(1_234, BOOL))), 'record { "it\\\'s" : text; 1_234 : bool }'),
        (tuple_of((TEXT, NAT)), "record { text; nat }"),
        (Variant((Field("Red", NULL), Field("Rgb", NAT))), "variant { Red; Rgb : nat }"),
    ],
)
def test_types_as_text(of: Type, written: str) -> None:
    assert to_text(of) == written


@given(TYPES)
def test_subtyping_is_reflexive_and_bounded(of: Type) -> None:
    assert is_subtype(of, of)
    assert is_subtype(of, RESERVED)
    assert is_subtype(EMPTY, of)
    assert hash(of) == hash(of)


@pytest.mark.parametrize(
    ("sub", "of", "is_so"),
    [
        (NAT, INT, True),
        (INT, NAT, False),
        (NAT8, NAT64, False),
        (NULL, Opt(TEXT), True),
        (TEXT, Opt(TEXT), True),
        (Opt(TEXT), TEXT, False),
        (Vec(NAT), Vec(INT), True),
        (Record((Field("a", TEXT), Field("b", NAT))), Record((Field("a", TEXT),)), True),
        (Record(()), Record((Field("a", Opt(TEXT)),)), True),
        (Record(()), Record((Field("a", TEXT),)), False),
        (Variant((Field("a", NULL),)), Variant((Field("a", NULL), Field("b", NULL))), True),
        (Variant((Field("a", NULL), Field("b", NULL))), Variant((Field("a", NULL),)), False),
        (Record(()), Variant((Field("a", NULL),)), False),
    ],
)
def test_subtypes(sub: Type, of: Type, is_so: bool) -> None:
    assert is_subtype(sub, of) is is_so


@pytest.mark.parametrize("value", [None, {}, {"a": 1, "b": 2}, {"c": None}, "a", 7])
def test_what_is_no_variant(value: object) -> None:
    with pytest.raises(CandidError, match=r"is not variant \{ a; b \}"):
        tag_of(Variant((Field("a", NULL), Field("b", NULL))), value)
