"""Methods and their Candid types → the text of a `.did` file. Pure functions, no I/O.

Source: https://github.com/dfinity/candid/blob/master/spec/Candid.md, "Textual grammar".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from canister.ic.annotations import Marks, result_type, type_of
from canister.ic.candid.types import Opt, Prim, Record, Type, Vec, field_text, label_text, to_text


class MethodRow(Protocol):
    """The part of a method that is read here. arg: None without argument. err: None when the result is bare, not Ok or
    Err.
    """

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


def render(methods: Iterable[MethodRow], marks: Marks) -> str:
    """The `.did` text of a service: its named types in order of first use, then its methods."""
    bodies: dict[str, str] = {}
    service = []
    for method in methods:
        argument = "" if method.arg is None else _use(type_of(method.arg, marks), bodies)
        result = _use(result_type(method.ok, method.err, marks), bodies)
        suffix = " query" if method.mode == "query" else ""
        service += [f"  // {line}".rstrip() for line in method.doc.splitlines()]
        service.append(f"  {label_text(method.name)} : ({argument}) -> ({result}){suffix};")
    types_text = "\n\n".join(f"type {name} = {body};" for name, body in bodies.items())
    return f"{types_text}\n\nservice : {{\n" + "\n".join(service) + "\n}\n"


def _use(of: Type, bodies: dict[str, str]) -> str:
    """How a type is written where it is used; `bodies` gets the definitions of the named types that it needs."""
    _define(of, bodies)
    return to_text(of, use_names=True)


def _define(of: Type, bodies: dict[str, str]) -> None:
    if isinstance(of, Prim):
        return
    if isinstance(of, Opt | Vec):
        _define(of.of, bodies)
        return
    for item in of.fields:
        _define(item.type, bodies)
    if of.name is None:
        return
    lines = "".join(f"  {field_text(of, item, use_names=True)};\n" for item in of.fields)
    body = f"{'record' if isinstance(of, Record) else 'variant'} {{\n{lines}}}"
    if bodies.setdefault(of.name, body) != body:
        raise TypeError(f"two different Candid types are named {of.name}")
