"""The part of CBOR (RFC 8949) that the IC speaks: integers, byte and text strings, arrays, maps, booleans and null.

Our own decoder, since anybody sends its input: no tags but 55799 in front of everything, no floats, no key twice in a
map, and work bounded by the input's length and by the limits below. Pure functions, no I/O.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
_LENGTHS = [(low, n_bytes, 1 << (8 * n_bytes)) for low, n_bytes in ((24, 1), (25, 2), (26, 4), (27, 8))]


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
        """The value that comes next. Heads and strings are read here, since a call for each would take longer."""
        self._n_left -= 1
        if self._n_left < 0:
            self.fail(f"more than {MAX_ITEMS} values")
        if depth == 0:
            self.fail(f"nested deeper than {MAX_DEPTH}")
        data, at = self.data, self.position
        first = data[at] if at < len(data) else 0xFF
        kind, argument = first >> 5, first & 31
        if argument < 24:
            self.position = at + 1
        else:
            kind, argument = self._head()
        if kind == UNSIGNED:
            return argument if argument >= 0 else self._definite(argument)
        if kind in (BYTES, TEXT):
            if argument >= 0:
                at = self.position
                end = at + argument
                if end > len(data):
                    self.fail("the end, too early,")
                string, self.position = data[at:end], end
            else:
                string = self._pieces(kind)
            return string if kind == BYTES else self._text(string)
        if kind == MAP:
            return self._map(argument, depth)
        if kind == SIMPLE and argument in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[argument]
        if kind == NEGATIVE:
            return -1 - self._definite(argument)
        if kind == ARRAY:
            return [self.value(depth - 1) for _ in self._items(argument, 1)]
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

    def _items(self, n: int, smallest: int) -> Iterable[object]:
        """One turn per item of an array or map; a count that the rest of the input cannot hold is refused at once."""
        if n == _INDEFINITE:
            return self._until_break()
        if n * smallest > len(self.data) - self.position:
            self.fail(f"a count of {n} that is larger than the rest")
        return range(n)

    def _until_break(self) -> Iterator[None]:
        while not self._is_break():
            yield

    def _is_break(self) -> bool:
        if self.position < len(self.data) and self.data[self.position] == 0xFF:
            self.position += 1
            return True
        return False

    def _pieces(self, kind: int) -> bytes:
        """A string of no definite length."""
        pieces = []
        for _ in self._until_break():
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
        data = self.data
        for _ in self._items(argument, 2):
            at = self.position
            end = at + data[at] - 0x5F if at < len(data) else 0
            if at < end <= at + 24 and end <= len(data) and self._n_left:  # a short text, as most keys are
                self._n_left -= 1
                self.position = end
                key: Value = self._text(data[at + 1 : end])
            else:
                key = self.value(1)
                if isinstance(key, (list, dict)):
                    self.fail("a key that is twice in its map, or none")
            if key in found:
                self.fail("a key that is twice in its map, or none")
            found[key] = self.value(depth - 1)
        return found


def _put(value: Encodable, pieces: list[bytes | bytearray | memoryview]) -> None:
    """Append the bytes of a value. What most values are is found by their very types, which is soonest."""
    if type(value) is str:
        pieces.append(_text(value))
    elif type(value) is bytes:
        pieces += (head(BYTES, len(value)), value)
    elif type(value) is int:
        pieces.append(head(UNSIGNED, value) if value >= 0 else head(NEGATIVE, -1 - value))
    elif type(value) is dict:
        _put_map(value, pieces)
    elif value is None:
        pieces.append(b"\xf6")
    elif isinstance(value, bool):
        pieces.append(b"\xf5" if value else b"\xf4")
    elif isinstance(value, int):
        _put(int(value), pieces)
    elif isinstance(value, str):
        pieces.append(_text(str(value)))
    elif isinstance(value, (bytes, bytearray, memoryview)):
        pieces += (head(BYTES, len(value)), value)
    elif isinstance(value, Mapping):
        _put_map(value, pieces)
    elif isinstance(value, Sequence):
        pieces.append(head(ARRAY, len(value)))
        for item in value:
            _put(item, pieces)
    else:
        raise TypeError(f"{type(value).__name__} has no form in CBOR")


def _put_map(value: Mapping[str, Encodable], pieces: list[bytes | bytearray | memoryview]) -> None:
    pieces.append(head(MAP, len(value)))
    for key, item in value.items():
        _put(key, pieces)
        _put(item, pieces)


def _text(value: str) -> bytes:
    if len(value) <= MAX_NAME:
        return _name(value)
    data = value.encode()
    return head(TEXT, len(data)) + data


@functools.lru_cache(maxsize=1024)
def _name(text: str) -> bytes:
    """A short text, such as the names of fields, which come again and again."""
    data = text.encode()
    return head(TEXT, len(data)) + data


def head(kind: int, argument: int) -> bytes:
    """The first bytes of a value: its major type, and the number, length or count that follows."""
    if argument < 24:
        return _FIRST_BYTES[kind << 5 | argument]
    for low, n_bytes, bound in _LENGTHS:
        if argument < bound:
            return _FIRST_BYTES[kind << 5 | low] + argument.to_bytes(n_bytes, "big")
    raise TypeError(f"{argument} has no form of at most 64 bits in CBOR")
