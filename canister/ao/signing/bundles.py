"""ANS-104 bundles: many items as the data of one. Their sizes and ids stand before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from canister.ao.encoding import ID_BYTES, Malformed, from_base64url
from canister.ao.signing.items import Item, read_item

MAX_ITEMS = 10_000
_NUMBER_BYTES = 32
_ENTRY_BYTES = _NUMBER_BYTES + ID_BYTES


def write_bundle(items: Sequence[Item]) -> bytes:
    whole = [item.to_bytes() for item in items]
    parts = [len(items).to_bytes(_NUMBER_BYTES, "little")]
    for item, data in zip(items, whole, strict=True):
        parts += [len(data).to_bytes(_NUMBER_BYTES, "little"), from_base64url(item.id)]
    return b"".join(parts + whole)


def read_bundle(data: bytes, max_items: int = MAX_ITEMS) -> tuple[Item, ...]:
    """Raises Malformed. Every byte belongs to an item; no item is verified."""
    return tuple(_items(data, max_items))


def _items(data: bytes, max_items: int) -> Iterator[Item]:
    if len(data) < _NUMBER_BYTES:
        raise Malformed("the bundle is cut off before its number of items")
    n_items = int.from_bytes(data[:_NUMBER_BYTES], "little")
    if n_items > max_items:
        raise Malformed(f"the bundle says that it has {n_items} items; at most {max_items} are taken")
    at = _NUMBER_BYTES + n_items * _ENTRY_BYTES
    if at > len(data):
        raise Malformed("the bundle is cut off within the list of its items")
    for i in range(n_items):
        start = _NUMBER_BYTES + i * _ENTRY_BYTES
        entry = data[start : start + _ENTRY_BYTES]
        n_bytes = int.from_bytes(entry[:_NUMBER_BYTES], "little")
        if n_bytes > len(data) - at:
            raise Malformed(f"item {i} of the bundle runs past its end")
        item = read_item(data[at : at + n_bytes])
        if from_base64url(item.id) != entry[_NUMBER_BYTES:]:
            raise Malformed(f"item {i} of the bundle has the id {item.id}, and the list another one")
        at += n_bytes
        yield item
    if at != len(data):
        raise Malformed(f"{len(data) - at} bytes follow the items of the bundle")
