"""MiniMax M3: elements, each with a token before it, that hold others: objects by their names, lists by <item>."""

from __future__ import annotations

from collections.abc import Callable

from canister.chat_format import values
from canister.chat_format.family import Family, Row, Thoughts, WantedCalls
from canister.chat_format.lark import Lark
from canister.chat_format.marks import Mark, Marks, mark
from canister.chat_format.reader import Reader, Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.schemas import Schema
from canister.chat_format.tagged import is_of_name
from canister.errors import BadRequest

TOKEN = "]<]minimax[>["
BEGIN, END = TOKEN + "<tool_call>", TOKEN + "</tool_call>"
_CALL, _NAMED, _CALL_END = TOKEN + '<invoke name="', '">', TOKEN + "</invoke>"
_ITEM = "item"
MAX_DEPTH = 64


def _open(name: str) -> str:
    return f"{TOKEN}<{name}>"


def _close(name: str) -> str:
    return f"{TOKEN}</{name}>"


def _read(it: Reading, _opener: Mark) -> Steps[Outcome]:
    reader = it.reader
    n_read = 0
    while not (yield from reader.closes(END)):
        if not (yield from reader.closes(_CALL)):
            return "whole" if n_read else "not a call"
        name = yield from reader.while_(is_of_name)
        if name not in it.tools or not (yield from reader.takes(_NAMED)):
            return "broken" if n_read else "not a call"
        it.begin(name)
        schema = it.tools[name].parameters
        if not (yield from _members(reader, it.output.arguments, schema, schema, _CALL_END, 0)):
            return "broken"
        if not it.output.end_call():
            return "broken"
        n_read += 1
    return "whole" if n_read else "not a call"


def _members(
    reader: Reader, take: Callable[[str], None], schema: Schema, root: Schema, end: str, depth: int
) -> Steps[bool]:
    """Elements up to `end`, as an object."""
    before = "{"
    while not (yield from reader.closes(end)):
        if depth > MAX_DEPTH or not (yield from reader.closes(TOKEN + "<")):
            return False
        name: list[str] = []
        if (yield from reader.until(Marks.of(">"), name.append)) is None:
            return False
        key = "".join(name)
        take(before + values.quoted(key) + ": ")
        before = ", "
        inner = values.of_property({**schema, **values.definitions(root)}, key)
        if not (yield from _element(reader, take, inner, root, key, depth + 1)):
            return False
    take("{}" if before == "{" else "}")
    return True


def _element(
    reader: Reader, take: Callable[[str], None], schema: Schema, root: Schema, name: str, depth: int
) -> Steps[bool]:
    """What stands in an element, up to its end."""
    types = values.types_of(schema)
    is_list = types == {"array"} or (types != {"object"} and (yield from reader.takes(ahead=(_open(_ITEM),))))
    if types == {"string"}:
        is_list = False
    elif is_list:
        return (yield from _list(reader, take, schema, root, name, depth))
    elif types == {"object"} or (yield from reader.takes(ahead=(TOKEN, "<", _NAME_START))):
        return (yield from _members(reader, take, schema, root, _close(name), depth))
    end = Marks.of(_close(name))
    if types == {"string"}:
        take('"')
        is_closed = (yield from reader.until(end, lambda text: take(values.escaped(text)))) is not None
        take('"' if is_closed else "")
        return is_closed
    pieces: list[str] = []
    if (yield from reader.until(end, pieces.append)) is None:
        return False
    take(values.as_json("".join(pieces), schema))
    return True


_NAME_START = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")


def _list(
    reader: Reader, take: Callable[[str], None], schema: Schema, root: Schema, name: str, depth: int
) -> Steps[bool]:
    items = schema.get("items")
    inner = {**items, **values.definitions(root)} if isinstance(items, dict) else {}
    before = "["
    while not (yield from reader.closes(_close(name))):
        if depth > MAX_DEPTH or not (yield from reader.closes(_open(_ITEM))):
            return False
        take(before)
        before = ", "
        if not (yield from _element(reader, take, inner, root, _ITEM, depth + 1)):
            return False
    take("[]" if before == "[" else "]")
    return True


# -- grammar


def _write(wanted: WantedCalls) -> str:
    lark = wanted.lark
    call = lark.either(
        f"{lark.text(_CALL + tool.name + _NAMED)} {_write_members(lark, tool.parameters, 0)} {lark.text(_CALL_END)}"
        for tool in wanted.tools
    )
    line = lark.text("\n")
    return f"{lark.text(BEGIN)} {line} {lark.many(call, line) if wanted.many else call} {line} {lark.text(END)}"


def _write_members(lark: Lark, schema: Schema, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise BadRequest("a schema that calls itself cannot be bound in this model's format")
    ways = []
    for known, required, others in values.parameters(schema):
        if others is not None and not known:
            raise BadRequest("an object without named properties cannot be bound in this model's format")
        bodies = []
        for name, one in known.items():
            body = f"{lark.text(_open(name))} {_write_element(lark, one, name, depth)}"
            bodies.append(body if name in required else lark.maybe(body))
        ways.append(" ".join(bodies) or lark.text(""))
    return lark.either(ways)


def _write_element(lark: Lark, schema: Schema, name: str, depth: int) -> str:
    types = values.types_of(schema)
    if types == {"object"}:
        return f"{_write_members(lark, schema, depth + 1)} {lark.text(_close(name))}"
    if types == {"array"}:
        items = schema.get("items")
        inner = {**items, **values.definitions(schema)} if isinstance(items, dict) else {}
        item = f"{lark.text(_open(_ITEM))} {_write_element(lark, inner, _ITEM, depth + 1)}"
        return f"({item})* {lark.text(_close(name))}"
    return values.write_value(lark, schema, _close(name))


MINIMAX_M3 = Family(
    name="minimax-m3",
    openers=(mark(BEGIN),),
    read_calls=_read,
    write_calls=_write,
    triggers=(BEGIN,),
    special=(TOKEN,),
    thoughts=(Thoughts("<mm:think>", "</mm:think>"),),
)

ROWS = (Row(MINIMAX_M3, has=(TOKEN,)),)
