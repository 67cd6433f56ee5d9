"""Arguments in Gemma's notation, {city:<|"|>Zürich<|"|>,n:3}: read into JSON as they come, and bound.

Names stand bare, texts between quotes of their own, and nothing is escaped.
"""

from __future__ import annotations

from collections.abc import Callable

from canister.chat_format import values
from canister.chat_format.family import WantedCalls
from canister.chat_format.lark import Lark
from canister.chat_format.marks import Marks
from canister.chat_format.pythonic import separated
from canister.chat_format.reader import Reader, Steps
from canister.chat_format.schemas import Schema
from canister.errors import BadRequest

MAX_DEPTH = 64
_KNOWN_WORDS = frozenset(
    [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "$ref",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "$schema",
        "$id",
        "$comment",
        "nullable",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "pattern",
        "minLength",
        "maxLength",
        "deprecated",
        "readOnly",
        "writeOnly",
        "strict",
    ]
)
_SCALARS = frozenset(("integer", "number", "boolean", "null"))


class Notation:
    """quote: what stands around a text."""

    def __init__(self, quote: str) -> None:
        self._quote = quote
        self._quotes = Marks.of(quote)

    # -- reading

    def read(self, reader: Reader, take: Callable[[str], None], depth: int = 0) -> Steps[bool]:
        """One value, handed on as JSON. False: it does not read."""
        first = yield from reader.skip_space()
        if depth > MAX_DEPTH or not first:
            return False
        if (yield from reader.takes(self._quote)):
            take('"')
            is_closed = (yield from reader.until(self._quotes, lambda text: take(values.escaped(text)))) is not None
            take('"' if is_closed else "")
            return is_closed
        if first == "{":
            return (yield from self._object(reader, take, depth))
        if first == "[":
            return (yield from self._list(reader, take, depth))
        text = yield from reader.while_(lambda character: character not in ",}]")
        take(values.as_json(text.strip(), {}))
        return (yield from reader.ahead()) != ""

    def _object(self, reader: Reader, take: Callable[[str], None], depth: int) -> Steps[bool]:
        yield from reader.takes("{")
        before = "{"
        while not (yield from reader.closes("}")):
            if before != "{" and not (yield from reader.closes(",")):
                return False
            yield from reader.skip_space()
            if (yield from reader.takes(self._quote)):
                pieces: list[str] = []
                if (yield from reader.until(self._quotes, pieces.append)) is None:
                    return False
                key = "".join(pieces)
            else:
                key = (yield from reader.while_(lambda character: character not in ":{}")).strip().strip('"')
            if not (yield from reader.closes(":")):
                return False
            take(before + values.quoted(key) + ": ")
            before = ", "
            if not (yield from self.read(reader, take, depth + 1)):
                return False
        take("{}" if before == "{" else "}")
        return True

    def _list(self, reader: Reader, take: Callable[[str], None], depth: int) -> Steps[bool]:
        yield from reader.takes("[")
        take("[")
        is_first = True
        while not (yield from reader.closes("]")):
            if not is_first:
                if not (yield from reader.closes(",")):
                    return False
                take(", ")
            is_first = False
            if not (yield from self.read(reader, take, depth + 1)):
                return False
        take("]")
        return True

    # -- grammar

    def write(self, wanted: WantedCalls, schema: Schema) -> str:
        """The body for arguments of this schema. Raises BadRequest for what cannot be bound in this notation."""
        return _Writing(wanted.lark, self._quote, schema).value(schema)


class _Writing:
    def __init__(self, lark: Lark, quote: str, root: Schema) -> None:
        self._lark = lark
        self._quote = quote
        self._root = root
        self._referred: dict[str, str] = {}

    def value(self, schema: Schema) -> str:
        lark = self._lark
        strange = [key for key in schema if key not in _KNOWN_WORDS and not key.startswith("x-")]
        if strange:
            raise BadRequest(f"{strange[0]!r} cannot be bound in this model's format")
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._reference(reference)
        for key in ("anyOf", "oneOf"):
            choices = schema.get(key)
            if isinstance(choices, list):
                return lark.either(self.value(one) for one in choices if isinstance(one, dict))
        if (listed := values.listed(schema)) is not None:
            return lark.either(self._listed(one) for one in listed)
        types = values.types_of(schema)
        if types == values.ALL_TYPES:
            return self._anything()
        ways = []
        if "string" in types:
            ways.append(f"{lark.text(self._quote)} {lark.until(self._quote, values.regex_of_text(schema))}")
        if scalars := types & _SCALARS:
            bounds = {key: said for key, said in schema.items() if key in _NUMERIC}
            ways.append(lark.json({**bounds, "type": sorted(scalars)}))
        if "array" in types:
            items = schema.get("items")
            ways.append(self._array(self._part(items)))
        if "object" in types:
            ways.append(self._object(schema))
        return lark.either(ways)

    def _reference(self, reference: str) -> str:
        led = values.led_to(reference, self._root)
        if led is None:
            raise BadRequest(f"$ref {reference!r} leads nowhere")
        if reference not in self._referred:
            name = self._referred[reference] = self._lark.name()
            self._lark.define(name, self.value(led))
        return self._referred[reference]

    def _listed(self, value: object) -> str:
        if isinstance(value, str):
            return self._lark.text(self._quote + value + self._quote)
        return self._lark.json({"const": value})

    def _array(self, item: str) -> str:
        lark = self._lark
        return f"{lark.text('[')} ({lark.many(item, lark.text(','))})? {lark.text(']')}"

    def _object(self, schema: Schema) -> str:
        lark = self._lark
        properties = schema.get("properties")
        told = schema.get("required")
        required = set(told) if isinstance(told, list) else set()
        known = {str(name): said for name, said in properties.items()} if isinstance(properties, dict) else {}
        bodies = [
            (f"{lark.text(name + ':')} {self._part(known[name])}", name in required)
            for name in sorted(known, key=str.lower)
        ]
        more = schema.get("additionalProperties", not known)
        if more is False:
            return f"{lark.text('{')} {separated(lark, bodies, separator=',')} {lark.text('}')}"
        other = f'{NAME} ":" {self._part(more)}'
        bodies.append((lark.many(other, lark.text(",")), False))
        return f"{lark.text('{')} {separated(lark, bodies, separator=',')} {lark.text('}')}"

    def _part(self, schema: object) -> str:
        return self.value(schema) if isinstance(schema, dict) else self._anything()

    def _anything(self) -> str:
        """A value of any kind; it may hold others, so it is a rule that calls itself."""
        if "" not in self._referred:
            lark = self._lark
            name = self._referred[""] = lark.name()
            text = f"{lark.text(self._quote)} {lark.until(self._quote)}"
            scalar = lark.json({"type": sorted(_SCALARS)})
            member = lark.rule(f'{NAME} ":" {name}')
            entries = f"{lark.text('{')} ({lark.many(member, lark.text(','))})? {lark.text('}')}"
            lark.define(name, " | ".join([text, scalar, self._array(name), entries]))
        return self._referred[""]


NAME = "/[A-Za-z_][A-Za-z0-9_ .-]{0,63}/"
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
