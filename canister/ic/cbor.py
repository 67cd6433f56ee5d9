"""The part of CBOR (RFC 8949) that the IC speaks: integers, byte and text strings, arrays, maps, booleans and null.

Our own decoder, since anybody sends its input: no tags but 55799 in front of everything, no floats, no key twice in a
map, and work bounded by the input's length and by the limits below. Pure functions, no I/O.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

MAX_DEPTH = 128  # of nesting; a hash tree over 2^64 leaves has half of it
MAX_ITEMS = 50_000  # values in one document: 20 delegations with 1000 targets each fit twice
MAX_NAME = 32  # characters of a text whose bytes are remembered

Value = int | bytes | str | bool | None | list["Value"] | dict["Value", "Value"]
"""A decoded value. Byte strings are copies; nothing refers to the input."""

Encodable = int | bytes | bytearray | memoryview | str | bool | None | Sequence["Encodable"] | Mapping[str, "Encodable"]

_SELF_DESCRIBED = b"\xd9\xd9\xf7"
UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)
_SIMPLE_VALUES: dict[int, bool | None] = {20: False, 21: True, 22: None, 23: None}
_INDEFINITE = -1
_FIRST_BYTES = [bytes([n]) for n in range(256)]


class CborError(ValueError):
    """Bytes that are no CBOR document of this kind."""


def decode(data: bytes | memoryview) -> Value:
    """The one value in `data`; CborError for anything else."""
    reader = _Reader(bytes(data))
    if reader.data[:3] == _SELF_DESCRIBED:
        reader.position = 3
    value = reader.value(MAX_DEPTH)
    if reader.position != len(reader.data):
        reader.fail(f"{len(reader.data) - reader.position} bytes too many")
    return value


def encode(value: Encodable) -> bytes:
    """`value` in its shortest form, without tag. Maps keep their order. TypeError for values that the IC has no form
    for.
    """
    pieces: list[bytes | bytearray | memoryview] = []
    _put(value, pieces)
    return b"".join(pieces)


class _Reader:
    """The input and the position of the decoder in it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self._n_left = MAX_ITEMS

    def fail(self, what: str) -> NoReturn:
        raise CborError(f"{what} at byte {self.position}")

    def value(self, depth: int) -> Value:
        self._n_left -= 1
        if self._n_left < 0:
            self.fail(f"more than {MAX_ITEMS} values")
        if depth == 0:
            self.fail(f"nested deeper than {MAX_DEPTH}")
        first = self.data[self.position] if self.position < len(self.data) else 0xFF
        kind, argument = first >> 5, first & 31
        if argument < 24:
            self.position += 1
        else:
            kind, argument = self._head()
        if kind in (BYTES, TEXT):
            data = self._string(kind, argument)
            return data if kind == BYTES else self._text(data)
        if kind == UNSIGNED:
            return self._definite(argument)
        if kind == NEGATIVE:
            return -1 - self._definite(argument)
        if kind == ARRAY:
            return [self.value(depth - 1) for _ in self._items(argument, 1)]
        if kind == MAP:
            return self._map(argument, depth)
        if kind == SIMPLE and argument in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[argument]
        return self.fail(f"tag {argument}" if kind == TAG else "a float or another value that the IC does not use")

    def _head(self) -> tuple[int, int]:
        """Major type and argument of what comes next; a float's argument is none of the simple values."""
        if self.position == len(self.data):
            self.fail("the end, too early,")
        first = self.data[self.position]
        kind, low = first >> 5, first & 31
        self.position += 1
        if low < 24:
            return kind, low
        if low == 31:
            return kind, _INDEFINITE
        if low > 27 or (kind == SIMPLE and low > 24):
            self.fail("an unknown kind of value")
        return kind, int.from_bytes(self._take(1 << (low - 24)), "big")

    def _take(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        if end > len(self.data):
            self.fail("the end, too early,")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _definite(self, argument: int) -> int:
        if argument == _INDEFINITE:
            self.fail("an unknown kind of value")
        return argument

    def _items(self, n: int, smallest: int) -> Iterator[None]:
        """One turn per item of an array or map; a count that the rest of the input cannot hold is refused at once."""
        if n == _INDEFINITE:
            while not self._is_break():
                yield
            return
        if n * smallest > len(self.data) - self.position:
            self.fail(f"a count of {n} that is larger than the rest")
        for _ in range(n):
            yield

    def _is_break(self) -> bool:
        if self.position < len(self.data) and self.data[self.position] == 0xFF:
            self.position += 1
            return True
        return False

    def _string(self, kind: int, argument: int) -> bytes:
        if argument != _INDEFINITE:
            return self._take(argument)
        pieces = []
        for _ in self._items(_INDEFINITE, 1):
            self._n_left -= 1
            piece_kind, length = self._head()
            if piece_kind != kind or self._n_left < 0:
                self.fail("a string in pieces that do not belong together")
            pieces.append(self._take(self._definite(length)))
        return b"".join(pieces)

    def _text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.fail("a text that is not UTF-8")

    def _map(self, argument: int, depth: int) -> dict[Value, Value]:
        found: dict[Value, Value] = {}
        for _ in self._items(argument, 2):
            name = self._short_text()
            key = self.value(1) if name is None else name
            if isinstance(key, list | dict) or key in found:
                self.fail("a key that is twice in its map, or none")
            found[key] = self.value(depth - 1)
        return found

    def _short_text(self) -> str | None:
        """The text that comes next, if it is a short one, as most keys are; None for anything else."""
        at = self.position
        length = self.data[at] - 0x60 if at < len(self.data) else -1
        end = at + 1 + length
        if not 0 <= length < 24 or end > len(self.data) or self._n_left < 1:
            return None
        self._n_left -= 1
        self.position = end
        return self._text(self.data[at + 1 : end])


def _put(value: Encodable, pieces: list[bytes | bytearray | memoryview]) -> None:
    """Append the bytes of a value."""
    if isinstance(value, str):
        if len(value) <= MAX_NAME:
            pieces.append(_name(value))
        else:
            data = value.encode()
            pieces += (head(TEXT, len(data)), data)
    elif isinstance(value, bytes | bytearray | memoryview):
        pieces += (head(BYTES, len(value)), value)
    elif isinstance(value, bool):
        pieces.append(b"\xf5" if value else b"\xf4")
    elif value is None:
        pieces.append(b"\xf6")
    elif isinstance(value, int):
        pieces.append(head(UNSIGNED, value) if value >= 0 else head(NEGATIVE, -1 - value))
    elif isinstance(value, dict | Mapping):
        pieces.append(head(MAP, len(value)))
        for key, item in value.items():
            _put(key, pieces)
            _put(item, pieces)
    elif isinstance(value, Sequence):
        pieces.append(head(ARRAY, len(value)))
        for item in value:
            _put(item, pieces)
    else:
        raise TypeError(f"{type(value).__name__} has no form in CBOR")


@functools.lru_cache(maxsize=1024)
def _name(text: str) -> bytes:
    """A short text, such as the names of fields, which come again and again."""
    data = text.encode()
    return head(TEXT, len(data)) + data


def head(kind: int, argument: int) -> bytes:
    """The first bytes of a value: its major type, and the number, length or count that follows."""
    if argument < 24:
        return _FIRST_BYTES[kind << 5 | argument]
    for low, n_bytes in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * n_bytes):
            return _FIRST_BYTES[kind << 5 | low] + argument.to_bytes(n_bytes, "big")
    raise TypeError(f"{argument} has no form of at most 64 bits in CBOR")
