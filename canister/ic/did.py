"""Python annotations → Candid types → the text of a `.did` file. Pure functions, no I/O.

A record is a pydantic model, its fields in order, under their aliases; `X | None` is `opt`, `list[X]` is `vec`, an Enum
is a variant without payloads. What Python has no type for is marked in the annotation. This package knows no records:
the classes that mark such things are given as `Marks`.
Source: https://github.com/dfinity/candid/blob/master/spec/Candid.md, "Textual grammar".
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Protocol

from pydantic import BaseModel

_PRIMITIVES: dict[object, str] = {str: "text", bool: "bool", bytes: "blob"}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS = frozenset(
    {"blob", "bool", "composite_query", "empty", "float32", "float64", "func", "import", "int", "nat", "null", "oneway"}
    | {"opt", "principal", "query", "record", "reserved", "service", "text", "type", "variant", "vec"}
    | {f"{sign}{bits}" for sign in ("int", "nat") for bits in (8, 16, 32, 64)}
)


class MethodRow(Protocol):
    """What is read of a method. arg: None without argument. err: None when the result is bare, not Ok or Err."""

    @property
    def name(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def arg(self) -> Any: ...
    @property
    def ok(self) -> Any: ...
    @property
    def err(self) -> Any: ...
    @property
    def doc(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Marks:
    """type_marker: found in an annotation, its `type` is the Candid type. variant: base of variants with payloads."""

    type_marker: type[Any]
    variant: type[BaseModel]


def render(methods: Iterable[MethodRow], marks: Marks) -> str:
    """The `.did` text of a service: its named types in order of first use, then its methods."""
    seen = _Types(marks)
    service = []
    for method in methods:
        argument = "" if method.arg is None else seen.type_of(method.arg)
        result = seen.result_of(method.ok, method.err)
        suffix = " query" if method.mode == "query" else ""
        service += [f"  // {line}".rstrip() for line in method.doc.splitlines()]
        service.append(f"  {label(method.name)} : ({argument}) -> ({result}){suffix};")
    types_text = "\n\n".join(f"type {name} = {body};" for name, body in seen.bodies.items())
    return f"{types_text}\n\nservice : {{\n" + "\n".join(service) + "\n}\n"


def label(name: str) -> str:
    """A field, tag or method name as it must stand in a `.did` file."""
    if _IDENTIFIER.fullmatch(name) and name not in _KEYWORDS:
        return name
    return json.dumps(name, ensure_ascii=False)


def result_name(ok: Any) -> str | None:
    """Name of `variant {Ok: ok; Err: …}`: what the record says itself, else `<record>Result`; None for other types."""
    (item,) = typing.get_args(ok) if typing.get_origin(ok) is list else (ok,)
    if not (isinstance(item, type) and issubclass(item, BaseModel)):
        return None
    own: str | None = getattr(item, "candid_result", None)
    # A list without a name of its own must not take the name of its items' result.
    return own or (f"{item.__name__}Result" if item is ok else None)


class _Types:
    """Renders types; `bodies` collects the named ones that it meets."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self.bodies: dict[str, str] = {}

    def type_of(self, annotation: Any, metadata: Sequence[object] = ()) -> str:
        for mark in metadata:
            if isinstance(mark, self._marks.type_marker):
                return str(mark.type)
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            return self.type_of(arguments[0], arguments[1:])
        if origin in (typing.Union, UnionType) and len(arguments) == 2 and NoneType in arguments:
            (inner,) = (argument for argument in arguments if argument is not NoneType)
            return f"opt {self.type_of(inner)}"
        if origin is list:
            return f"vec {self.type_of(arguments[0])}"
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return self._define(annotation.__name__, "variant", [f"{label(tag)};" for tag in annotation.__members__])
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return self._model(annotation)
        if annotation in _PRIMITIVES:
            return _PRIMITIVES[annotation]
        raise TypeError(f"{annotation!r} has no Candid type: mark it in its annotation")

    def result_of(self, ok: Any, err: Any) -> str:
        if err is None:
            return self.type_of(ok)
        lines = [f"Ok : {self.type_of(ok)};", f"Err : {self.type_of(err)};"]
        name = result_name(ok)
        if name is None:
            return f"variant {{ {' '.join(lines).removesuffix(';')} }}"
        return self._define(name, "variant", lines)

    def _model(self, model: type[BaseModel]) -> str:
        if model.__name__ in self.bodies:
            return model.__name__
        is_variant = issubclass(model, self._marks.variant)
        hints = typing.get_type_hints(model, include_extras=True)
        lines = []
        for name, field in model.model_fields.items():
            candid = self.type_of(hints[name])
            # In Python a tag that is not set is None; in Candid it is just not there.
            candid = candid.removeprefix("opt ") if is_variant else candid
            lines.append(f"{label(field.alias or name)} : {candid};")
        return self._define(model.__name__, "variant" if is_variant else "record", lines)

    def _define(self, name: str, kind: str, lines: Sequence[str]) -> str:
        body = f"{kind} {{\n" + "".join(f"  {line}\n" for line in lines) + "}"
        if self.bodies.setdefault(name, body) != body:
            raise TypeError(f"two different Candid types are named {name}")
        return name
