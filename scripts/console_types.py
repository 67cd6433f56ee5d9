"""console/src/interface.d.ts: what TypeScript knows of the methods, made from the interface table by way of Candid's
types. The forms are those of JSON, which `canister/api/record_types.py` tells.
"""

from __future__ import annotations

from collections.abc import Mapping

from canister.api import codec
from canister.api.methods import METHODS
from canister.ic.annotations import type_of
from canister.ic.candid import types as candid

_HEAD = """\
// The methods' arguments and answers as JSON, made from canister/api/methods.py by `python -m scripts.generate`; do not
// edit. `value` is what stands in Ok, or the whole answer of a method that has no errors.

/** Of an answer: an integer that a double cannot hold is a BigInt. */
export type Nat = number | bigint;
/** Of an argument: digits are taken too. */
export type NatGiven = number | bigint | string;
"""

_SMALL = {"nat8", "nat16", "nat32", "int8", "int16", "int32", "float32", "float64"}
_WIDE = {"nat", "nat64", "int", "int64"}
_OTHERS = {"text": "string", "principal": "string", "bool": "boolean", "null": "null"}


def render_types() -> str:
    bodies: dict[str, str] = {}
    values = [_use(type_of(method.ok, codec.MARKS), bodies, is_given=False) for method in METHODS]
    rows = []
    for method, value in zip(METHODS, values, strict=True):
        arg = "undefined" if method.arg is None else _use(type_of(method.arg, codec.MARKS), bodies, is_given=True)
        rows += [f"  /** {method.doc.splitlines()[0]} */", f"  {method.name}: {{ arg: {arg}; value: {value} }};"]
    return "\n".join([_HEAD, *bodies.values(), "export interface Methods {", *rows, "}", ""])


def _use(of: candid.Type, bodies: dict[str, str], *, is_given: bool) -> str:
    """How a type is written where it is used; `bodies` gets the definitions of the named types that it needs.

    is_given: in an argument, where less is asked for than answers have: an optional field may be left out.
    """
    match of:
        case candid.Prim():
            return _primitive(str(candid.to_text(of)), is_given)
        case candid.Vec(of=inner) if inner == candid.BLOB.of:
            return "string"  # base64
        case candid.Vec(of=inner):
            text = _use(inner, bodies, is_given=is_given)
            return f"({text})[]" if " " in text else f"{text}[]"
        case candid.Opt(of=inner):
            return f"{_use(inner, bodies, is_given=is_given)} | null"
        case candid.Variant(fields=fields) if all(field.type == candid.NULL for field in fields):
            return " | ".join(f'"{field.label}"' for field in fields)
        case candid.Variant(fields=fields):
            tags = [f"{{ {field.label}: {_use(field.type, bodies, is_given=is_given)} }}" for field in fields]
            return " | ".join(tags)
        case candid.Record(fields=fields, name=str(name)):
            items = {
                f"{field.label}{'?' if is_given and isinstance(field.type, candid.Opt) else ''}": _use(
                    field.type, bodies, is_given=is_given
                )
                for field in fields
            }
            return _define(name, items, bodies)
    raise TypeError(f"{of!r} has no type in TypeScript")


def _primitive(name: str, is_given: bool) -> str:
    if name in _WIDE:
        return "NatGiven" if is_given else "Nat"
    return "number" if name in _SMALL else _OTHERS[name]


def _define(name: str, fields: Mapping[str, str], bodies: dict[str, str]) -> str:
    """The name under which the record is defined: `<name>Given` where an argument takes more than an answer has."""
    text = "".join(f"  {label}: {of};\n" for label, of in fields.items())
    for own in (name, f"{name}Given"):
        body = f"export interface {own} {{\n{text}}}\n"
        if bodies.setdefault(own, body) == body:
            return own
    raise TypeError(f"three different types are named {name}")
