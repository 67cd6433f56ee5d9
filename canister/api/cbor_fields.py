"""The fields of a message in CBOR, each read as what it must be; whatever stands there instead is a WireError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from canister.ic import cbor
from canister.ic.cbor import CborError, Value

T = TypeVar("T")

MAX_TEXT = 4096  # characters of names, paths and principals
LONGEST_TEXT = 64 << 20
U32, U64 = 2**32 - 1, 2**64 - 1


class WireError(ValueError):
    """Bytes that are no message of this kind."""


def fields_of(data: bytes | memoryview) -> Fields:
    """The map that `data` is. Raises WireError."""
    try:
        content = cbor.decode(data)
    except CborError as error:
        raise WireError(f"not CBOR: {error}") from None
    if not isinstance(content, dict):
        raise WireError("a message is a map of CBOR")
    return Fields(content)


class Fields:
    """The fields of a map, each read as what it must be."""

    def __init__(self, content: Mapping[Value, Value]) -> None:
        self._content = content

    def has(self, name: str) -> bool:
        return self._content.get(name) is not None

    def maybe(self, name: str, read: Callable[[str], T]) -> T | None:
        """What `read` finds; None for a field that is null or missing."""
        return read(name) if self.has(name) else None

    def text(self, name: str, most: int = MAX_TEXT) -> str:
        value = self._content.get(name)
        if not isinstance(value, str) or len(value) > most:
            raise WireError(f"field {name} must be a text of at most {most} characters")
        return value

    def long_text(self, name: str) -> str:
        return self.text(name, LONGEST_TEXT)

    def number(self, name: str, most: int = U64) -> int:
        value = self._content.get(name)
        if type(value) is not int or not 0 <= value <= most:  # True is an int to Python
            raise WireError(f"field {name} must be a number from 0 to {most}")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self._content.get(name, default)
        if not isinstance(value, bool):
            raise WireError(f"field {name} must be true or false")
        return value

    def data(self, name: str, *sizes: int) -> bytes:
        """A byte string, of one of these sizes if some are named."""
        value = self._content.get(name)
        if not isinstance(value, bytes) or (sizes and len(value) not in sizes):
            raise WireError(f"field {name} must be bytes{f', {sizes[-1]} of them' if sizes else ''}")
        return value

    def map(self, name: str) -> Fields:
        value = self._content.get(name)
        if not isinstance(value, dict):
            raise WireError(f"field {name} must be a map")
        return Fields(value)

    def maps(self, name: str) -> list[Fields]:
        value = self._content.get(name)
        items = [Fields(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []
        if not isinstance(value, list) or len(items) < len(value):
            raise WireError(f"field {name} must be a list of maps")
        return items

    def numbers(self) -> dict[str, int]:
        """All fields, each a number."""
        names = [name for name in self._content if isinstance(name, str)]
        if len(names) < len(self._content):
            raise WireError("the names of fields must be texts")
        return {name: self.number(name) for name in names}
