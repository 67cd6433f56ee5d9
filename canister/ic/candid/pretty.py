"""Values of given types as Candid text, laid out as candid-rs does it (rust/candid/src/pretty/candid.rs).

`pretty` breaks lines wider than the width, after Wadler's "A prettier printer"; `flat` is the one line of dfx's
`--output idl`. Fields stand in the order of their hashes. Vectors of more than ten items and levels below the tenth are
flat. A blob is letters if all of its bytes are, else hex. Only the byte 0 in a text differs: `\\u{0}` can be read back.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import inf, isfinite
from typing import Any

from canister.ic.candid.encode import FIXED
from canister.ic.candid.types import (
    BLOB,
    BOOL,
    FLOAT32,
    FLOAT64,
    NAT8,
    NULL,
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
    label_text,
    quoted,
    tag_of,
)

WIDTH = 80
INDENT = 2
MAX_BROKEN_ITEMS = 10
MAX_BROKEN_DEPTH = 10

_LETTERS_ONLY = re.compile(rb"[\x20-\x7e\t\n\r]*")
_SPECIAL_BYTE = re.compile(rb"[^\x20-\x7e]|[\"'`\\]")


def pretty(of: Sequence[Type], values: Sequence[object], width: int = WIDTH) -> str:
    """`(…, …)`, on one line if it fits, else broken."""
    items = [_document(item, value, MAX_BROKEN_DEPTH) for item, value in zip(of, values, strict=True)]
    return _render(_enclosed("(", _separated(items, ","), ")", inside=""), width)


def flat(of: Sequence[Type], values: Sequence[object]) -> str:
    """`(…, …)` on one line, as dfx's `--output idl`."""
    return f"({', '.join(_flat(item, value) for item, value in zip(of, values, strict=True))})"


# -- documents: texts that may be broken at some places, in groups that are broken as a whole


@dataclass(frozen=True, slots=True)
class _Line:
    """A new line where its group is broken, else `unbroken`."""

    unbroken: str


@dataclass(frozen=True, slots=True)
class _IfBroken:
    """A text that appears only where its group is broken."""

    text: str


@dataclass(frozen=True, slots=True)
class _Nested:
    parts: tuple[_Document, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    parts: tuple[_Document, ...]


_Document = str | _Line | _IfBroken | _Nested | _Group


def _document(of: Type, value: Any, depth: int) -> _Group:
    """depth: levels that may still be broken."""
    if depth == 0 or isinstance(of, Prim) or value is None or of == BLOB:
        # On this path a text has its single quotes escaped, below the last level not: so does candid-rs.
        return _Group((quoted(value) if of is TEXT and depth else _flat(of, value),))
    if isinstance(of, Opt):
        inner = _document(of.of, value, depth - 1)
        return _Group(("opt ", _enclosed("(", inner.parts, ")", inside="") if _is_annotated(of.of) else inner))
    if isinstance(of, Vec):
        if len(value) > MAX_BROKEN_ITEMS:
            return _Group((_flat(of, value),))
        items = [_document(of.of, item, depth - 1) for item in value]
        return _Group(("vec ", _enclosed("{", _separated(items, ";"), "}")))
    if isinstance(of, Variant):
        _, field, payload = tag_of(of, value)
        body = (
            label_text(field.label),
            *(() if field.type is NULL else (" = ", _document(field.type, payload, depth - 1))),
        )
        return _Group(("variant ", _enclosed("{", body, "}")))
    items = [_field(of, field, value.get(field.label), depth) for field in of.by_hash.values()]
    return _Group(("record ", _enclosed("{", _separated(items, ";"), "}")))


def _field(of: Record, field: Field, value: Any, depth: int) -> _Group:
    document = _document(field.type, value, depth - 1)
    return document if of.is_tuple else _Group((f"{label_text(field.label)} = ", document))


def _separated(items: Sequence[_Document], mark: str) -> tuple[_Document, ...]:
    """Items with a mark between them; broken, also after the last."""
    parts: list[_Document] = []
    for item in items:
        parts += (item, mark, _Line(" "))
    return (*parts[:-2], _IfBroken(mark)) if parts else ()


def _enclosed(left: str, parts: tuple[_Document, ...], right: str, inside: str = " ") -> _Document:
    if not parts:
        return left + right
    return _Group((_Nested((left, _Line(inside), *parts)), _Line(inside), right))


def _render(document: _Document, width: int) -> str:
    out: list[str] = []
    column = 0
    # What is still to be written, the next on top: (indentation, broken, document).
    waiting: list[tuple[int, bool, _Document]] = [(0, True, document)]
    while waiting:
        indent, broken, item = waiting.pop()
        match item:
            case str():
                out.append(item)
                column += _columns(item)
            case _Line() if broken:
                out.append("\n" + " " * indent)
                column = indent
            case _Line():
                out.append(item.unbroken)
                column += len(item.unbroken)
            case _IfBroken():
                if broken:
                    out.append(item.text)
                    column += len(item.text)
            case _Nested():
                waiting += [(indent + INDENT, broken, part) for part in reversed(item.parts)]
            case _Group():
                broken = broken and not _fits(item, waiting, width - column)
                waiting += [(indent, broken, part) for part in reversed(item.parts)]
    return "".join(out)


def _fits(group: _Group, rest: Sequence[tuple[int, bool, _Document]], columns: int) -> bool:
    """Unbroken, do the group and the rest of its line stay within so many columns?"""
    waiting: list[tuple[bool, _Document]] = [(False, group)]
    n_rest = len(rest)
    while columns >= 0:
        if not waiting:
            if n_rest == 0:
                return True
            n_rest -= 1
            waiting.append(rest[n_rest][1:])
        broken, item = waiting.pop()
        match item:
            case str():
                columns -= _columns(item)
            case _Line() if broken:
                return True
            case _Line():
                columns -= len(item.unbroken)
            case _IfBroken():
                columns -= len(item.text) if broken else 0
            case _Nested():
                waiting += [(broken, part) for part in reversed(item.parts)]
            case _Group():
                # A group that comes later is broken only if it must be: not for us.
                waiting += [(broken, part) for part in reversed(item.parts)]
    return False


def _columns(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else unicodedata.category(character) not in ("Mn", "Me")
        for character in text
    )


# -- one line


def _flat(of: Type, value: Any) -> str:
    if isinstance(of, Prim):
        return _primitive(of, value)
    if isinstance(of, Opt):
        if value is None:
            return "null"
        return f"opt ({_flat(of.of, value)})" if _is_annotated(of.of) else f"opt {_flat(of.of, value)}"
    if isinstance(of, Vec):
        return _blob(value) if of.of is NAT8 else f"vec {{{_items(_flat(of.of, item) for item in value)}}}"
    if isinstance(of, Record):
        return f"record {{{_items(_flat_fields(of, value))}}}"
    _, field, payload = tag_of(of, value)
    return f"variant {{ {label_text(field.label)}{'' if field.type is NULL else f' = {_flat(field.type, payload)}'} }}"


def _flat_fields(of: Record, value: Any) -> Iterable[str]:
    for index, (number, field) in enumerate(of.by_hash.items()):
        written = _flat(field.type, value.get(field.label))
        yield written if number == index else f"{label_text(field.label)} = {written}"


def _items(items: Iterable[str]) -> str:
    return "".join(f" {item};" for item in items)


def _primitive(of: Prim, value: Any) -> str:
    if of is TEXT:
        return quoted(value, is_debug=True)
    if of is BOOL:
        return "true" if value else "false"
    if of is PRINCIPAL:
        return f'principal "{value}"'
    if of in (NULL, RESERVED):
        return f"null : {of.name}"
    if of in (FLOAT32, FLOAT64):
        return f"{_float(value, is_single=of is FLOAT32)} : {of.name}"
    return f"{value:_} : {of.name}"


def _float(value: float, *, is_single: bool) -> str:
    """The fewest digits that give the number again; never with an exponent."""
    if not isfinite(value):
        return {inf: "inf", -inf: "-inf"}.get(value, "NaN")
    written = repr(value)
    if is_single:
        candidates = (f"{value:.{digits}g}" for digits in range(1, 10))
        written = next((text for text in candidates if _as_single(float(text)) == _as_single(value)), written)
    digits = format(Decimal(written), "f")
    return digits if "." in digits else f"{digits}.0"


def _as_single(value: float) -> bytes:
    try:
        return FIXED[FLOAT32].pack(value)
    except OverflowError:
        return b""


def _blob(value: bytes) -> str:
    if _LETTERS_ONLY.fullmatch(value):
        written = _SPECIAL_BYTE.sub(lambda match: b"\\%02x" % match[0][0], value).decode("ascii")
    else:
        written = "\\" + value.hex("\\")
    return f'blob "{written}"'


def _is_annotated(of: Type) -> bool:
    """Are values of this type written with their type behind, so that they need parentheses behind `opt`?"""
    return isinstance(of, Prim) and of not in (TEXT, BOOL, PRINCIPAL)
