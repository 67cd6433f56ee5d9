"""Python annotations → Candid types: what the codecs work with and the `.did` file is made of. Pure functions, no I/O.

A record is a pydantic model, its fields in order, under their aliases; `X | None` is `opt`, `list[X]` is `vec`, an Enum
is a variant without payloads. What Python has no type for is marked in the annotation. This package knows no records:
the classes that mark such things are given as `Marks`.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel

from canister.ic.candid.types import BLOB, BOOL, FLOAT64, NULL, PRIMITIVES, TEXT, Field, Opt, Record, Type, Variant, Vec

_PYTHON_TYPES: dict[object, Type] = {str: TEXT, bool: BOOL, bytes: BLOB, float: FLOAT64}
_MARKED_TYPES: dict[str, Type] = {**PRIMITIVES, "blob": BLOB}


@dataclass(frozen=True, slots=True)
class Marks:
    """type_marker: found in an annotation, its `type` is the Candid type. variant: base of variants with payloads."""

    type_marker: type[Any]
    variant: type[BaseModel]


def type_of(annotation: Any, marks: Marks, metadata: Sequence[object] = ()) -> Type:
    """The Candid type of an annotation; TypeError if it has none."""
    for mark in metadata:
        if isinstance(mark, marks.type_marker):
            return _MARKED_TYPES[str(mark.type)]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_of(arguments[0], marks, arguments[1:])
    if origin in (typing.Union, UnionType) and len(arguments) == 2 and NoneType in arguments:
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return Opt(type_of(inner, marks))
    if origin is list:
        return Vec(type_of(arguments[0], marks))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return Variant(tuple(Field(tag, NULL) for tag in annotation.__members__), annotation.__name__)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model_type(annotation, marks)
    if annotation in _PYTHON_TYPES:
        return _PYTHON_TYPES[annotation]
    raise TypeError(f"{annotation!r} has no Candid type: mark it in its annotation")


def result_type(ok: Any, err: Any, marks: Marks) -> Type:
    """What a method answers: the bare type, or `variant {Ok; Err}` when it has errors."""
    if err is None:
        return type_of(ok, marks)
    return Variant((Field("Ok", type_of(ok, marks)), Field("Err", type_of(err, marks))), result_name(ok))


def result_name(ok: Any) -> str | None:
    """Name of `variant {Ok: ok; Err: …}`: what the record says itself, else `<record>Result`; None for other types."""
    (item,) = typing.get_args(ok) if typing.get_origin(ok) is list else (ok,)
    if not (isinstance(item, type) and issubclass(item, BaseModel)):
        return None
    own: str | None = getattr(item, "candid_result", None)
    # A list without a name of its own must not take the name of its items' result.
    return own or (f"{item.__name__}Result" if item is ok else None)


def _model_type(model: type[BaseModel], marks: Marks) -> Type:
    hints = typing.get_type_hints(model, include_extras=True)
    fields = [(item.alias or name, type_of(hints[name], marks)) for name, item in model.model_fields.items()]
    if not issubclass(model, marks.variant):
        return Record(tuple(Field(label, of) for label, of in fields), model.__name__)
    # In Python a tag that is not set is None; in Candid it is just not there.
    return Variant(tuple(Field(label, of.of if isinstance(of, Opt) else of) for label, of in fields), model.__name__)
