"""Candid types as frozen values. Pure functions, no I/O.

Source: https://github.com/dfinity/candid/blob/master/spec/Candid.md

The values of a type in Python, in both the binary and the text codec:

    null, reserved              None
    bool                        bool
    nat, int, nat8 … int64      int
    float32, float64            float
    text                        str
    principal                   str, its text form
    blob (vec nat8)             bytes
    opt t                       None or the value
    vec t                       list
    record                      dict: label → value
    variant                     dict with one entry: tag → payload; to be written also the Enum member of that name

`opt (opt t)` has no Python value that tells its two nulls apart, so that such a type cannot be made.
Recursive types and types of functions and services are known on the wire only, where they are skipped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

SHOWN_CHARACTERS = 80

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = re.compile(r"[^\x20-\x7e]|[\"'\\]")
_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"', "'": "\\'", "\\": "\\\\"}
_OTHER_KEYWORDS = frozenset({"import", "service", "func", "type", "opt", "vec", "record", "variant", "blob"}) | {
    "oneway",
    "query",
    "composite_query",
}


class CandidError(ValueError):
    """A message, a text or a value that is not Candid, or not of the wanted type."""


@dataclass(frozen=True, slots=True, eq=False)
class Prim:
    """A primitive type, or principal. Do not make any: there is one of each in PRIMITIVES, which is equal to itself
    alone.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Opt:
    of: Type

    def __post_init__(self) -> None:
        if isinstance(self.of, Opt) or self.of in (NULL, RESERVED):
            raise TypeError(f"an opt of {to_text(self.of)} has no Python value: None would mean two things")


@dataclass(frozen=True, slots=True)
class Vec:
    of: Type


@dataclass(frozen=True, slots=True)
class Field:
    """label: a name, or the number that stands for a name."""

    label: str | int
    type: Type


@dataclass(frozen=True)
class _Fields:
    """fields: in the order in which they were declared. by_hash: in the order of the wire."""

    fields: tuple[Field, ...]
    name: str | None = field(default=None, compare=False)  # under which a `.did` file defines it
    by_hash: Mapping[int, Field] = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        hashes = sorted((label_hash(item.label), index) for index, item in enumerate(self.fields))
        by_hash = {number: self.fields[index] for number, index in hashes}
        if len(by_hash) != len(self.fields):
            raise TypeError(f"two of the labels {', '.join(str(item.label) for item in self.fields)} have one hash")
        object.__setattr__(self, "by_hash", MappingProxyType(by_hash))
        # Types are keys of caches: their hash is asked for often.
        object.__setattr__(self, "_hash", hash((type(self), self.fields)))


@dataclass(frozen=True)
class Record(_Fields):
    @property
    def is_tuple(self) -> bool:
        """Its labels are 0, 1, 2, …: they need not be written."""
        return tuple(self.by_hash) == tuple(range(len(self.by_hash)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Variant(_Fields):
    def __hash__(self) -> int:
        return self._hash


Type = Prim | Opt | Vec | Record | Variant

NULL, BOOL, TEXT = Prim("null"), Prim("bool"), Prim("text")
NAT, NAT8, NAT16, NAT32, NAT64 = Prim("nat"), Prim("nat8"), Prim("nat16"), Prim("nat32"), Prim("nat64")
INT, INT8, INT16, INT32, INT64 = Prim("int"), Prim("int8"), Prim("int16"), Prim("int32"), Prim("int64")
FLOAT32, FLOAT64 = Prim("float32"), Prim("float64")
RESERVED, EMPTY, PRINCIPAL = Prim("reserved"), Prim("empty"), Prim("principal")
BLOB = Vec(NAT8)

_NUMBERS = (NAT, INT, NAT8, NAT16, NAT32, NAT64, INT8, INT16, INT32, INT64, FLOAT32, FLOAT64)
PRIMITIVES: Mapping[str, Prim] = MappingProxyType(
    {prim.name: prim for prim in (NULL, BOOL, *_NUMBERS, TEXT, RESERVED, EMPTY, PRINCIPAL)}
)
"""In the order of the specification."""
INTEGERS: Mapping[Prim, tuple[int | None, int | None]] = MappingProxyType(
    {NAT: (0, None), INT: (None, None)}
    | {PRIMITIVES[f"nat{bits}"]: (0, 2**bits - 1) for bits in (8, 16, 32, 64)}
    | {PRIMITIVES[f"int{bits}"]: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)}
)
"""The least and the greatest number of each type; None: no limit."""

KEYWORDS = frozenset(PRIMITIVES) | _OTHER_KEYWORDS


def label_hash(label: str | int) -> int:
    """The number that stands for a label on the wire."""
    if isinstance(label, int):
        return label
    number = 0
    for byte in label.encode("utf-8"):
        number = (number * 223 + byte) & 0xFFFFFFFF
    return number


def may_be_absent(of: Type) -> bool:
    """A field or a trailing argument of this type may be left out; it is null then."""
    return isinstance(of, Opt) or of in (NULL, RESERVED)


def tag_of(of: Variant, value: object) -> tuple[int, Field, Any]:
    """Place on the wire, tag and payload of a variant's value. Raises CandidError."""
    if isinstance(value, Enum):
        value = {value.name: None}
    if isinstance(value, Mapping) and len(value) == 1:
        ((tag, payload),) = value.items()
        for index, item in enumerate(of.by_hash.values()):
            if item.label == tag:
                return index, item, payload
    raise wrong(of, value)


def wrong(of: Type, value: object) -> CandidError:
    """The error for a Python value that is not of a type."""
    shown = repr(value)
    return CandidError(f"{shown[:SHOWN_CHARACTERS]}{'…' * (len(shown) > SHOWN_CHARACTERS)} is not {to_text(of)}")


def is_subtype(sub: Type, of: Type) -> bool:
    """Is every value of `sub` one of `of`? Leaves out the rule by which anything is some opt's null."""
    if sub in (of, EMPTY) or of is RESERVED or (sub, of) == (NAT, INT):
        return True
    if isinstance(of, Opt):
        return sub is NULL or is_subtype(sub.of if isinstance(sub, Opt) else sub, of.of)
    if isinstance(sub, Vec) and isinstance(of, Vec):
        return is_subtype(sub.of, of.of)
    if isinstance(sub, Record) and isinstance(of, Record):
        return all(
            is_subtype(sub.by_hash[number].type, item.type) if number in sub.by_hash else may_be_absent(item.type)
            for number, item in of.by_hash.items()
        )
    if isinstance(sub, Variant) and isinstance(of, Variant):
        return all(
            number in of.by_hash and is_subtype(item.type, of.by_hash[number].type)
            for number, item in sub.by_hash.items()
        )
    return False


# -- as text


def label_text(label: str | int) -> str:
    """A field, tag or method name as it must be written."""
    if isinstance(label, int):
        return f"{label:_}"
    return label if _IDENTIFIER.fullmatch(label) and label not in KEYWORDS else quoted(label)


def quoted(text: str, *, is_debug: bool = False) -> str:
    """A text in quotes, as Rust's `escape_debug` writes it; is_debug: as its `{:?}` does."""

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        if character == "'" and is_debug:
            return character
        if character in _ESCAPES:
            return _ESCAPES[character]
        is_mark = unicodedata.category(character) in ("Mn", "Me")
        if character.isprintable() and not (is_mark and (is_debug or match.start() == 0)):
            return character
        return f"\\u{{{ord(character):x}}}"

    return f'"{_SPECIAL.sub(escape, text)}"'


def to_text(of: Type, *, use_names: bool = False) -> str:
    """A type on one line. use_names: write only the names of types that have one."""
    match of:
        case Prim():
            return of.name
        case Opt():
            return f"opt {to_text(of.of, use_names=use_names)}"
        case Vec():
            return "blob" if of == BLOB else f"vec {to_text(of.of, use_names=use_names)}"
    if use_names and of.name is not None:
        return of.name
    kind = "record" if isinstance(of, Record) else "variant"
    fields = "; ".join(field_text(of, item, use_names=use_names) for item in of.fields)
    return f"{kind} {{ {fields} }}" if fields else f"{kind} {{}}"


def field_text(of: Record | Variant, item: Field, *, use_names: bool = False) -> str:
    """One field or tag of `of`, as it stands between its braces."""
    if isinstance(of, Variant) and item.type is NULL:
        return label_text(item.label)
    written = to_text(item.type, use_names=use_names)
    return written if isinstance(of, Record) and of.is_tuple else f"{label_text(item.label)} : {written}"
