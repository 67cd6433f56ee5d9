"""What a gateway answers to GraphQL: `transactions` and `transaction`, found among records. Pure functions.

The newest comes first, unless HEIGHT_ASC is asked for. A cursor is the record's place, so that pages stay as they are
while others are stored.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from canister.ao.encoding import Malformed, to_base64url
from canister.ao.signing.tags import Tag
from canister.ao.storage.graphql import Field, Value, read_query

DEFAULT_FIRST = 10
MAX_FIRST = 1000
_MAX_VALUES = 1000
_WINSTON_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Record:
    """One item or transaction. place: rising with each that is stored. block_id, height, seconds: of its block."""

    place: int
    id: str
    owner: str
    owner_key: str
    target: str
    anchor: str
    signature: str
    tags: tuple[Tag, ...]
    data_bytes: int
    block_id: str
    height: int
    seconds: int
    quantity: int = 0
    reward: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty ones let all pass. tags: names with the values of which one must be there; without any, each value may."""

    ids: frozenset[str] = frozenset()
    owners: frozenset[str] = frozenset()
    recipients: frozenset[str] = frozenset()
    tags: tuple[tuple[bytes, frozenset[bytes]], ...] = ()
    min_height: int = 0
    max_height: int | None = None


def answer(body: object, records: Callable[[Filter], Iterable[Record]]) -> dict[str, object]:
    """The JSON for a request's JSON. records: by the filter's ids and owners, where there are such, the newest first.

    Errors are in the answer, as GraphQL has it.
    """
    try:
        if not isinstance(body, Mapping) or not isinstance(body.get("query"), str):
            raise Malformed("the body is no JSON object with a text `query`")
        variables = body.get("variables")
        if variables is not None and not isinstance(variables, Mapping):
            raise Malformed("the variables are no JSON object")
        operation = body.get("operationName")
        fields = read_query(body["query"], variables, operation if isinstance(operation, str) else None)
        return {"data": {field.key: _root(field, records) for field in fields}}
    except Malformed as error:
        return {"data": None, "errors": [{"message": str(error)}]}


def matches(record: Record, wanted: Filter) -> bool:
    return (
        (not wanted.ids or record.id in wanted.ids)
        and (not wanted.owners or record.owner in wanted.owners)
        and (not wanted.recipients or record.target in wanted.recipients)
        and record.height >= wanted.min_height
        and (wanted.max_height is None or record.height <= wanted.max_height)
        and all(_has(record.tags, name, values) for name, values in wanted.tags)
    )


def _has(tags: Sequence[Tag], name: bytes, values: frozenset[bytes]) -> bool:
    return any(found == name and (not values or value in values) for found, value in tags)


def _root(field: Field, records: Callable[[Filter], Iterable[Record]]) -> object:
    if field.name == "transaction":
        wanted = Filter(ids=frozenset([_text(field.arguments.get("id"), "id")]))
        found = next((record for record in records(wanted) if matches(record, wanted)), None)
        return None if found is None else _node(found, field.fields)
    if field.name == "transactions":
        return _page(field, records)
    if field.name == "__typename":
        return "Query"
    raise Malformed(f"there is no {field.name[:40]!r} here; ask for transactions or transaction")


def _page(field: Field, records: Callable[[Filter], Iterable[Record]]) -> dict[str, object]:
    known = {"ids", "owners", "recipients", "tags", "block", "first", "after", "sort", "bundledIn"}
    unknown = sorted(field.arguments.keys() - known)
    if unknown:
        raise Malformed(f"transactions has no argument {unknown[0][:40]!r}; it has {', '.join(sorted(known))}")
    wanted = _filter(field.arguments)
    first = field.arguments.get("first")
    first = DEFAULT_FIRST if first is None else first
    if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first <= MAX_FIRST:
        raise Malformed(f"first is {str(first)[:40]}; it must be a whole number from 0 to {MAX_FIRST}")
    is_rising = field.arguments.get("sort") == "HEIGHT_ASC"
    found: Iterator[Record] = (record for record in records(wanted) if matches(record, wanted))
    if is_rising:
        found = iter(sorted(found, key=lambda record: record.place))
    after = _place(field.arguments.get("after"))
    if after is not None:
        found = (record for record in found if (record.place > after if is_rising else record.place < after))
    page = list(islice(found, first + 1))
    asked: dict[str, Callable[[Field], object]] = {
        "pageInfo": lambda part: _object(part, {"hasNextPage": lambda _: len(page) > first}),
        "edges": lambda part: [_edge(record, part) for record in page[:first]],
        "count": lambda _: str(sum(1 for record in records(wanted) if matches(record, wanted))),
    }
    return _object(field, asked)


def _filter(arguments: Mapping[str, Value]) -> Filter:
    block = arguments.get("block") or {}
    heights = [block.get(name) for name in ("min", "max")] if isinstance(block, dict) else ["", ""]
    if any(height is not None and not isinstance(height, int) for height in heights):
        raise Malformed("block is {min, max}, both whole numbers")
    low, high = (height if isinstance(height, int) else None for height in heights)
    tags = arguments.get("tags") or []
    return Filter(
        ids=_texts(arguments.get("ids"), "ids"),
        owners=_texts(arguments.get("owners"), "owners"),
        recipients=_texts(arguments.get("recipients"), "recipients"),
        tags=tuple(_tag(tag) for tag in (tags if isinstance(tags, list) else [tags])),
        min_height=low or 0,
        max_height=high,
    )


def _tag(tag: Value) -> tuple[bytes, frozenset[bytes]]:
    if not isinstance(tag, dict) or not isinstance(tag.get("name"), str):
        raise Malformed("each of tags is {name: …, values: […]}")
    if tag.get("op") not in (None, "EQ"):
        raise Malformed(f"the op of a tag is {str(tag['op'])[:20]!r}; EQ is taken here")
    values = frozenset(value.encode() for value in _texts(tag.get("values"), "values"))
    return str(tag["name"]).encode(), values


def _texts(value: Value, name: str) -> frozenset[str]:
    """One text counts as a list of it, as GraphQL has it."""
    if value is None:
        return frozenset()
    items = value if isinstance(value, list) else [value]
    if len(items) > _MAX_VALUES or not all(isinstance(item, str) for item in items):
        raise Malformed(f"{name} is no list of at most {_MAX_VALUES} texts")
    return frozenset(str(item) for item in items)


def _text(value: Value, name: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{name} is no text")
    return value


def _edge(record: Record, part: Field) -> dict[str, object]:
    cursor = base64.b64encode(str(record.place).encode()).decode()
    return _object(part, {"cursor": lambda _: cursor, "node": lambda field: _node(record, field.fields)})


def _place(cursor: Value) -> int | None:
    if cursor in (None, ""):
        return None
    try:
        digits = base64.b64decode(str(cursor), validate=True).decode()
    except ValueError:
        digits = ""
    if not re.fullmatch(r"[0-9]{1,18}", digits):
        raise Malformed(f"the cursor {str(cursor)[:40]!r} is none of this gateway")
    return int(digits)


def _node(record: Record, fields: Sequence[Field]) -> dict[str, object]:
    block = {"id": record.block_id, "height": record.height, "timestamp": record.seconds, "previous": ""}
    kind = next((_shown(value) for name, value in record.tags if name.lower() == b"content-type"), None)
    flat: dict[str, object] = {
        "id": record.id,
        "anchor": record.anchor,
        "signature": record.signature,
        "recipient": record.target,
        "bundledIn": None,
        "parent": None,
        "ingested_at": record.seconds,
    }
    nested: dict[str, dict[str, object]] = {
        "owner": {"address": record.owner, "key": record.owner_key},
        "fee": _amount(record.reward),
        "quantity": _amount(record.quantity),
        "data": {"size": str(record.data_bytes), "type": kind},
        "block": block,
    }
    told: dict[str, object] = {}
    for field in fields:
        if field.name == "tags":
            pairs = [{"name": _shown(name), "value": _shown(value)} for name, value in record.tags]
            told[field.key] = [_picked(field, "Tag", dict(pair)) for pair in pairs]
        elif field.name in nested:
            told[field.key] = _picked(field, field.name.capitalize(), nested[field.name])
        else:
            told.update(_picked(Field("", "", {}, (field,)), "Transaction", flat))
    return told


def _picked(field: Field, kind: str, values: Mapping[str, object]) -> dict[str, object]:
    told: dict[str, object] = {}
    for part in field.fields:
        if part.name == "__typename":
            told[part.key] = kind
        elif part.name in values:
            told[part.key] = values[part.name]
        else:
            raise Malformed(f"a {kind} has no {part.name[:40]!r}; it has {', '.join(values)}")
    return told


def _object(field: Field, makers: Mapping[str, Callable[[Field], object]]) -> dict[str, object]:
    told: dict[str, object] = {}
    for part in field.fields:
        if part.name not in makers and part.name != "__typename":
            raise Malformed(f"{field.name} has no {part.name[:40]!r}; it has {', '.join(makers)}")
        told[part.key] = makers[part.name](part) if part.name in makers else field.name.capitalize()
    return told


def _amount(winston: int) -> dict[str, object]:
    whole, part = divmod(winston, 10**_WINSTON_DIGITS)
    return {"winston": str(winston), "ar": f"{whole}.{part:0{_WINSTON_DIGITS}}"}


def _shown(data: bytes) -> str:
    """A tag's text; bytes that are none are shown as base64url."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return to_base64url(data)
