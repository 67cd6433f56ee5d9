"""Tags of items in Avro's form: blocks of pairs of names and values, each number a zigzag varint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from canister.ao.encoding import Malformed

MAX_TAGS = 128
MAX_TAG_BYTES = 4096
_MAX_VARINT_BYTES = 5  # far above what MAX_TAG_BYTES needs

Tag = tuple[bytes, bytes]


def encode_tags(tags: Sequence[Tag]) -> bytes:
    """Raises Malformed when they are too many, or too long."""
    if not tags:
        return b""
    if len(tags) > MAX_TAGS:
        raise Malformed(f"there are {len(tags)} tags; an item has at most {MAX_TAGS}")
    parts = [_varint(len(tags))]
    for tag in tags:
        for text in tag:
            parts += [_varint(len(text)), text]
    encoded = b"".join([*parts, b"\0"])
    if len(encoded) > MAX_TAG_BYTES:
        raise Malformed(f"the tags take {len(encoded)} bytes; an item has at most {MAX_TAG_BYTES}")
    return encoded


def decode_tags(data: bytes) -> tuple[Tag, ...]:
    """Raises Malformed. Every byte belongs to a tag, and every number has its shortest form."""
    if not data:
        return ()
    reader = _Reader(data)
    tags: list[Tag] = []
    while count := reader.number():
        end = None
        if count < 0:  # the block's bytes follow
            count, size = -count, reader.number()
            end = reader.at + size
        if len(tags) + count > MAX_TAGS:
            raise Malformed(f"there are more than {MAX_TAGS} tags")
        tags += [(reader.text(), reader.text()) for _ in range(count)]
        if end is not None and end != reader.at:
            raise Malformed("a block of tags is not as long as it says")
    if reader.at != len(data):
        raise Malformed(f"{len(data) - reader.at} bytes follow the tags")
    return tuple(tags)


def texts(tags: Iterable[tuple[str, str]]) -> tuple[Tag, ...]:
    return tuple((name.encode(), value.encode()) for name, value in tags)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self) -> int:
        found = 0
        for i in range(_MAX_VARINT_BYTES):
            if self.at >= len(self.data):
                raise Malformed("the tags are cut off")
            byte = self.data[self.at]
            self.at += 1
            found |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if i and not byte:
                    break
                return (found >> 1) ^ -(found & 1)
        raise Malformed("a number in the tags is longer than it need be")

    def text(self) -> bytes:
        length = self.number()
        if length < 0 or self.at + length > len(self.data):
            raise Malformed("a tag runs past the end of the tags")
        self.at += length
        return self.data[self.at - length : self.at]


def _varint(number: int) -> bytes:
    number = number << 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
