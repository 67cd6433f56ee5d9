"""Candid in binary: values of given types to bytes.

Source: https://github.com/dfinity/candid/blob/master/spec/Candid.md, "Binary Format".
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from canister.ic import principal
from canister.ic.candid.types import (
    BOOL,
    INT,
    NAT,
    NAT8,
    NULL,
    PRIMITIVES,
    PRINCIPAL,
    RESERVED,
    TEXT,
    CandidError,
    Opt,
    Prim,
    Record,
    Type,
    Vec,
    tag_of,
    wrong,
)

MAGIC = b"DIDL"
OPT, VEC, RECORD, VARIANT, FUNC, SERVICE = -18, -19, -20, -21, -22, -23
# In the order of the specification, from null at -1 to empty at -17; only principal stands elsewhere.
OPCODES: Mapping[Prim, int] = MappingProxyType(
    {prim: -24 if prim is PRINCIPAL else -1 - index for index, prim in enumerate(PRIMITIVES.values())}
)
FIXED: Mapping[Prim, struct.Struct] = MappingProxyType(
    {
        PRIMITIVES[name]: struct.Struct(f"<{letter}")
        for name, letter in (
            *(("nat8", "B"), ("nat16", "H"), ("nat32", "I"), ("nat64", "Q"), ("float32", "f")),
            *(("int8", "b"), ("int16", "h"), ("int32", "i"), ("int64", "q"), ("float64", "d")),
        )
    }
)


_ONE_BYTE = [bytes([n]) for n in range(0x80)]


def encode(of: Sequence[Type], values: Sequence[object]) -> bytes:
    """A message that holds `values`. CandidError names the value that is not of its type."""
    if len(of) != len(values):
        raise CandidError(f"{len(of)} values are wanted, not {len(values)}")
    parts = [header(tuple(of))]
    for item, value in zip(of, values, strict=True):
        _write(item, value, parts)
    return b"".join(parts)


def unsigned(number: int) -> bytes:
    """LEB128."""
    if 0 <= number < 0x80:
        return _ONE_BYTE[number]
    if number < 0:
        raise CandidError(f"{number} is below 0")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def signed(number: int) -> bytes:
    """SLEB128."""
    out = bytearray()
    while not -0x40 <= number < 0x40:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number & 0x7F)
    return bytes(out)


@functools.lru_cache(maxsize=1024)
def header(of: tuple[Type, ...]) -> bytes:
    """Everything before the values: magic, type table, types of the values."""
    table: list[bytes] = []
    index_of: dict[Type, int] = {}

    def reference(item: Type) -> bytes:
        if isinstance(item, Prim):
            return signed(OPCODES[item])
        if item not in index_of:
            index_of[item] = len(table)
            table.append(b"")  # reserves the place while the types inside are added
            table[index_of[item]] = definition(item)
        return signed(index_of[item])

    def definition(item: Type) -> bytes:
        assert not isinstance(item, Prim)
        if isinstance(item, Opt | Vec):
            return signed(OPT if isinstance(item, Opt) else VEC) + reference(item.of)
        fields = [unsigned(number) + reference(field.type) for number, field in item.by_hash.items()]
        return signed(RECORD if isinstance(item, Record) else VARIANT) + unsigned(len(fields)) + b"".join(fields)

    references = b"".join(map(reference, of))
    return b"".join((MAGIC, unsigned(len(table)), *table, unsigned(len(of)), references))


def _write(of: Type, value: Any, parts: list[bytes]) -> None:
    if isinstance(of, Prim):
        parts.append(_primitive(of, value))
    elif isinstance(of, Opt):
        parts.append(b"\x00" if value is None else b"\x01")
        if value is not None:
            _write(of.of, value, parts)
    elif isinstance(of, Vec):
        _write_vec(of, value, parts)
    elif isinstance(of, Record):
        if not isinstance(value, Mapping):
            raise wrong(of, value)
        for field in of.by_hash.values():
            # A missing value is None. All types but those that may be absent refuse it.
            _write(field.type, value.get(field.label), parts)
    else:
        index, field, payload = tag_of(of, value)
        parts.append(unsigned(index))
        _write(field.type, payload, parts)


def _write_vec(of: Vec, value: Any, parts: list[bytes]) -> None:
    if of.of is NAT8:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise wrong(of, value)
        parts += (unsigned(len(value)), value)  # type: ignore[arg-type]  # join takes any of the three
        return
    if not isinstance(value, list | tuple):
        raise wrong(of, value)
    parts.append(unsigned(len(value)))
    if of.of is TEXT:
        parts += [_primitive(TEXT, item) for item in value]
        return
    for item in value:
        _write(of.of, item, parts)


def _primitive(of: Prim, value: Any) -> bytes:
    writer = _WRITERS.get(of)
    if writer is None:  # empty has no values
        raise wrong(of, value)
    try:
        return writer(value)
    except (ValueError, OverflowError, TypeError, AttributeError, struct.error):
        raise wrong(of, value) from None


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _write_nothing(value: Any) -> bytes:
    if value is not None:
        raise TypeError
    return b""


def _write_bool(value: Any) -> bytes:
    if not isinstance(value, bool):
        raise TypeError
    return b"\x01" if value else b"\x00"


def _write_text(value: Any) -> bytes:
    data = str.encode(value, "utf-8")
    return unsigned(len(data)) + data


def _write_principal(value: Any) -> bytes:
    data = principal.from_text(value)
    return b"\x01" + unsigned(len(data)) + data


def _fixed(packer: struct.Struct, check: Callable[[Any], object]) -> Callable[[Any], bytes]:
    return lambda value: packer.pack(check(value))


_WRITERS: dict[Prim, Callable[[Any], bytes]] = {
    NULL: _write_nothing,
    RESERVED: lambda value: b"",
    BOOL: _write_bool,
    TEXT: _write_text,
    PRINCIPAL: _write_principal,
    NAT: lambda value: unsigned(_integer(value)),
    INT: lambda value: signed(_integer(value)),
    **{prim: _fixed(packer, float if "float" in prim.name else _integer) for prim, packer in FIXED.items()},
}
