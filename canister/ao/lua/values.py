"""What crosses between the host and a program: bytes, numbers, truth values, and tables of those. No objects.

    s5:hello  i42;  d0.5;  T  F  N  t key value … e

Tables become dicts, or lists where their keys are 1, 2, 3 …; an empty one is an empty list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from canister.errors import BadRequest

Value: TypeAlias = "bytes | int | float | bool | Sequence[Value] | Mapping[bytes | int | float, Value] | None"
MAX_DEPTH = 110
_INTEGERS = range(-(2**63), 2**63)


class BadValue(BadRequest):
    """What a program cannot be given, or bytes that are no values."""


def encode(*values: Value) -> bytes:
    parts: list[bytes] = []
    for value in values:
        _encode(value, parts, 0)
    return b"".join(parts)


def decode(data: bytes) -> list[Value]:
    """Raises BadValue for any bytes that `encode` does not make."""
    values, at = [], 0
    while at < len(data):
        value, at = _decode(data, at, 0)
        values.append(value)
    return values


def _encode(value: Value, parts: list[bytes], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadValue(f"a value for a program is nested more than {MAX_DEPTH} times")
    if value is None:
        parts.append(b"N")
    elif isinstance(value, bool):
        parts.append(b"T" if value else b"F")
    elif isinstance(value, bytes):
        parts += [b"s%d:" % len(value), value]
    elif isinstance(value, int):
        if value not in _INTEGERS:
            raise BadValue(f"the number {str(value)[:40]} does not fit Lua's integers")
        parts.append(b"i%d;" % value)
    elif isinstance(value, float):
        parts.append(b"d%s;" % repr(value).replace("inf", "1e999").encode())
    elif isinstance(value, Mapping):
        _encode_pairs(value.items(), parts, depth)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        _encode_pairs(enumerate(value, 1), parts, depth)
    else:
        raise BadValue(f"a program cannot be given a {type(value).__name__}; texts are given as bytes")


def _encode_pairs(pairs: Iterable[tuple[Value, Value]], parts: list[bytes], depth: int) -> None:
    parts.append(b"t")
    for key, item in pairs:
        if item is None:
            continue
        if not isinstance(key, bytes | int | float) or key != key:
            raise BadValue("a table's keys are bytes or numbers")
        _encode(key, parts, depth + 1)
        _encode(item, parts, depth + 1)
    parts.append(b"e")


def _decode(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if depth > MAX_DEPTH:
        raise BadValue(f"a program's value is nested more than {MAX_DEPTH} times")
    kind = data[at : at + 1]
    if kind in _WORDS:
        return _WORDS[kind], at + 1
    if kind == b"t":
        return _table(data, at + 1, depth)
    stop = data.find(b":" if kind == b"s" else b";", at)
    text = data[at + 1 : stop]
    try:
        if stop < 0 or len(text) > 40:
            raise ValueError
        if kind == b"s":
            end = stop + 1 + _number(text)
            if end > len(data):
                raise ValueError
            return data[stop + 1 : end], end
        if kind == b"i":
            return int(text), stop + 1
        if kind == b"d":
            return float(text), stop + 1
    except ValueError:
        pass
    raise BadValue("bytes of a program are no values")


def _number(text: bytes) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(number)
    return number


def _table(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    found: dict[bytes | int | float, Value] = {}
    while data[at : at + 1] != b"e":
        key, at = _decode(data, at, depth + 1)
        if not isinstance(key, bytes | int | float) or isinstance(key, bool):
            raise BadValue("a key of a program's table is neither text nor number")
        found[key], at = _decode(data, at, depth + 1)
    if all(isinstance(key, int) for key in found) and found.keys() == set(range(1, len(found) + 1)):
        return [found[i] for i in range(1, len(found) + 1)], at + 1
    return found, at + 1


_WORDS: dict[bytes, Value] = {b"T": True, b"F": False, b"N": None}
