"""Arbitrary Candid types, and arbitrary values of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from canister.ic import principal
from canister.ic.candid.types import (
    BLOB,
    BOOL,
    EMPTY,
    FLOAT32,
    FLOAT64,
    INTEGERS,
    NULL,
    PRIMITIVES,
    PRINCIPAL,
    RESERVED,
    TEXT,
    Field,
    Opt,
    Prim,
    Record,
    Type,
    Variant,
    Vec,
    label_hash,
    may_be_absent,
)


def tuple_of(types: Iterable[Type]) -> Record:
    return Record(tuple(Field(index, item) for index, item in enumerate(types)))


LABELS: st.SearchStrategy[str | int] = (
    st.sampled_from(["Ok", "Err", "from", "principal", "query", "status_code", "", "it's", "ü", "a\nb", '"'])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.integers(0, 2**32 - 1)
)
_INHABITED = [prim for prim in PRIMITIVES.values() if prim is not EMPTY]
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def _types(draw: st.DrawFn, depth: int = 3) -> Type:
    kind = draw(st.sampled_from(["prim", "opt", "vec", "record", "tuple", "variant"])) if depth else "prim"
    if kind == "prim":
        return draw(st.sampled_from([*_INHABITED, BLOB]))
    if kind in ("opt", "vec"):
        inner = draw(_types(depth - 1))
        return inner if isinstance(inner, Opt) else Vec(inner) if kind == "vec" or may_be_absent(inner) else Opt(inner)
    n_fields = draw(st.integers(kind == "variant", 4))
    labels: list[str | int] = list(range(n_fields))
    if kind != "tuple":
        labels = draw(st.lists(LABELS, min_size=n_fields, max_size=n_fields, unique_by=label_hash))
    fields = tuple(Field(label, draw(_types(depth - 1))) for label in labels)
    return Variant(fields) if kind == "variant" else Record(fields)


TYPES: st.SearchStrategy[Type] = _types()


def values(of: Type) -> st.SearchStrategy[Any]:
    if isinstance(of, Prim):
        return _primitives(of)
    if of == BLOB:
        return st.binary(max_size=40)
    if isinstance(of, Opt):
        return st.none() | values(of.of)
    if isinstance(of, Vec):
        # Things without bytes may be few in a message: see test_binary.
        return st.lists(values(of.of), max_size=12 if isinstance(of.of, Prim) and not may_be_absent(of.of) else 3)
    if isinstance(of, Record):
        return st.fixed_dictionaries({item.label: values(item.type) for item in of.fields})
    return st.one_of([st.fixed_dictionaries({item.label: values(item.type)}) for item in of.fields])


def _primitives(of: Prim) -> st.SearchStrategy[Any]:
    if of in INTEGERS:
        least, greatest = INTEGERS[of]
        return st.integers(-(2**300) if least is None else least, 2**300 if greatest is None else greatest)
    if of in (FLOAT32, FLOAT64):
        return st.floats(allow_nan=False, allow_infinity=False, width=32 if of is FLOAT32 else 64)
    return {
        NULL: st.none(),
        RESERVED: st.none(),
        BOOL: st.booleans(),
        TEXT: _TEXTS,
        PRINCIPAL: st.binary(max_size=29).map(principal.to_text),
    }[of]


TYPED = TYPES.flatmap(lambda of: st.tuples(st.just(of), values(of)))
