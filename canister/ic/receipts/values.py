"""The hash of an argument or an answer: SHA-256 of its CBOR in deterministic form, whichever door it came through.

record, variant   a map of its fields that are not null, keys sorted by their encoded bytes
vec, text, blob, nat, bool    as CBOR has them; a float is the text of its shortest decimal form
token arrays      a byte string, four bytes a token, little-endian
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, cast

import numpy as np
from pydantic import BaseModel

from canister.ic import cbor

MOST_KEPT = 64

_rows: dict[type[object], list[tuple[bytes, str]]] = {}  # of dataclasses
_kept: dict[int, tuple[object, bytes]] = {}
"""By id, values that never change, such as the settings that the calls of an answer have in common, and their bytes.

Not by equality: 1 equals 1.0 and True, and each has bytes of its own.
"""


def value_hash(value: object) -> bytes:
    """32 bytes. TypeError for a value that no record of the interface has."""
    return hashlib.sha256(encoded(value)).digest()


def encoded(value: object) -> bytes:
    """The bytes that `value_hash` hashes."""
    pieces: list[bytes] = []
    if is_dataclass(value) and not isinstance(value, type):
        _put_record(pieces, value)
    else:
        _put(pieces, value)
    return b"".join(pieces)


def _put(pieces: list[bytes], value: object) -> None:
    if isinstance(value, str) and type(value) is str:  # most are
        data = value.encode(errors="surrogatepass")
        pieces += (cbor.head(cbor.TEXT, len(data)), data)
    elif isinstance(value, int) and type(value) is int and value >= 0:
        pieces.append(cbor.head(cbor.UNSIGNED, value))
    elif isinstance(value, BaseModel):
        items, at, n_present = value.__dict__, len(pieces), 0
        pieces.append(b"")  # the head, once it is known
        for key, name in _keys_of(type(value)):
            item = items[name]
            if item is not None:
                pieces.append(key)
                _put(pieces, item)
                n_present += 1
        pieces[at] = cbor.head(cbor.MAP, n_present)
    elif isinstance(value, str) and not isinstance(value, Enum):
        _put(pieces, str(value))
    elif value is None or (isinstance(value, bytes | int) and not isinstance(value, Enum)):
        pieces.append(cbor.encode(value))
    elif isinstance(value, float):
        _put(pieces, repr(value))
    elif isinstance(value, Enum):
        _put(pieces, value.value)
    elif isinstance(value, np.ndarray):
        pieces.append(cbor.encode(value.astype("<i4", copy=False).tobytes()))
    elif isinstance(value, Mapping):
        _put_map(pieces, {str(key): item for key, item in value.items()})
    elif is_dataclass(value) and not isinstance(value, type):
        _put_part(pieces, value)
    elif isinstance(value, Set):
        pieces.append(cbor.head(cbor.ARRAY, len(value)))
        pieces += sorted(map(encoded, value))
    elif isinstance(value, Sequence):
        pieces.append(cbor.head(cbor.ARRAY, len(value)))
        for item in value:
            _put(pieces, item)
    else:
        raise TypeError(f"{type(value).__name__} has no hash in a receipt")


def _put_part(pieces: list[bytes], value: object) -> None:
    """A record within another value: one that never changes is encoded once."""
    known = _kept.get(id(value))
    if known is None or known[0] is not value:
        own: list[bytes] = []
        _put_record(own, value)
        if not _never_changes(value):
            pieces += own
            return
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        known = _kept[id(value)] = value, b"".join(own)
    pieces.append(known[1])


def _put_record(pieces: list[bytes], value: object) -> None:
    present = [(key, item) for key, name in _rows_of(type(value)) if (item := getattr(value, name)) is not None]
    pieces.append(cbor.head(cbor.MAP, len(present)))
    for key, item in present:
        pieces.append(key)
        _put(pieces, item)


def _never_changes(value: Any) -> bool:
    """Is it frozen, with all that it has?"""
    if not value.__dataclass_params__.frozen:
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _put_map(pieces: list[bytes], items: Mapping[str, object]) -> None:
    present = sorted((cbor.encode(key), key) for key, item in items.items() if item is not None)
    pieces.append(cbor.head(cbor.MAP, len(present)))
    for data, key in present:
        pieces.append(data)
        _put(pieces, items[key])


def _rows_of(kind: type[object]) -> list[tuple[bytes, str]]:
    """The encoded names of a dataclass's fields in their order, and the names."""
    known = _rows.get(kind)
    if known is None:
        known = _rows[kind] = sorted((cbor.encode(row.name), row.name) for row in fields(cast("Any", kind)))
    return known


@cache
def _keys_of(kind: type[BaseModel]) -> list[tuple[bytes, str]]:
    """The encoded keys of a record in their order, and the names of its fields."""
    keys = {field.serialization_alias or field.alias or name: name for name, field in kind.model_fields.items()}
    return sorted((cbor.encode(key), name) for key, name in keys.items())
