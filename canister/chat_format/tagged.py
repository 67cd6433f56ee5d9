"""Calls whose arguments stand in tags, one after the other, without quotes: Qwen3-Coder, GLM, MiniMax, DeepSeek's DSML…

<function=get_weather><parameter=city>Zürich</parameter></function>
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import unescape

from canister.chat_format import values
from canister.chat_format.family import WantedCalls
from canister.chat_format.lark import Lark
from canister.chat_format.marks import Gap, Mark, Marks, Part, mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.schemas import Schema
from canister.chat_format.tools import Tool

_NAME_MARKS = frozenset("_.:/-")

KEY_REGEX = "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/"


@dataclass(frozen=True, slots=True)
class Tags:
    """How one call is written.

    begin, named: around the function's name; numbered: what follows the call's number, where it has one. key, keyed:
    around an argument's name; valued: what begins its value, after a line; closed: what ends it. end: of the call.
    pad: a line end that the value's tags bring along. typed: what tells after an argument's name whether the value is a
    text: (before, for a text, for JSON, after); "" for JSON: its type. self_ends: in place of `named`, where there are
    no arguments. line: between the tags. escapes_names: as XML does. may_not_close: a call's end ends its last
    value too. raw: around a value that may hold anything.
    """

    begin: str
    named: str
    key: str
    keyed: str
    closed: str
    end: str
    numbered: str = ""
    valued: str = ""
    pad: str = ""
    typed: tuple[str, str, str, str] | None = None
    self_ends: str = ""
    line: str = "\n"
    escapes_names: bool = False
    may_not_close: bool = False
    raw: tuple[str, str] | None = None

    def read(self, it: Reading) -> Steps[Outcome]:
        """One call, from its name on; `begin` is taken."""
        reader = it.reader
        yield from reader.skip_space()
        name = yield from reader.while_(is_of_name)
        if name not in it.tools:
            return "not a call"
        if self.self_ends and (yield from reader.closes(self.self_ends)):
            it.begin(name)
            it.output.arguments("{}")
            return "whole" if it.output.end_call() else "broken"
        if self.named and not (yield from reader.takes(self.named)):
            return "not a call"
        if self.numbered:
            yield from reader.while_(str.isdigit)
            if not (yield from reader.takes(self.numbered)):
                return "not a call"
        if not self.named and not (yield from reader.takes(Gap.SPACE, ahead=((self.key, self.end),))):
            return "not a call"
        it.begin(name)
        return (yield from self._arguments(it, it.tools[name].parameters))

    def _plain(self, name: str) -> str:
        return unescape(name) if self.escapes_names else name

    def _arguments(self, it: Reading, schema: Schema) -> Steps[Outcome]:
        reader, output = it.reader, it.output
        before = "{"
        while not (yield from reader.closes(self.end)):
            if not (yield from reader.closes(self.key)):
                return "broken"
            pieces: list[str] = []
            kind = yield from self._key(it, pieces.append)
            if kind is None:
                return "broken"
            key = self._plain("".join(pieces))
            output.arguments(before + values.quoted(key) + ": ")
            before = ", "
            ended_by = yield from self._value(it, values.of_property(schema, key), kind)
            if ended_by is None:
                return "broken"
            if ended_by.parts[0] == self.end:
                break
        output.arguments("{}" if before == "{" else "}")
        return "whole" if output.end_call() else "broken"

    def _key(self, it: Reading, take: Callable[[str], None]) -> Steps[str | None]:
        """The name of an argument, and what is told of its value: "text", "json", or "" for nothing."""
        reader = it.reader
        if self.typed is None:
            found = yield from reader.until(Marks.of(self.keyed), take)
            is_read = found is not None and (not self.valued or (yield from reader.closes(self.valued)))
            return "" if is_read else None
        before, text, _, after = self.typed
        if (yield from reader.until(Marks.of(before), take)) is None:
            return None
        told: list[str] = []
        if (yield from reader.until(Marks.of(after), told.append)) is None:
            return None
        return "text" if "".join(told) == text else "json"

    def _value(self, it: Reading, schema: Schema, kind: str) -> Steps[Mark | None]:
        """One value, and what ended it."""
        reader, output = it.reader, it.output
        is_padded = bool(self.pad) and (yield from reader.takes(self.pad))
        is_raw = self.raw is not None and (yield from reader.takes(self.raw[0]))
        closed = self.raw[1] + self.closed if self.raw and is_raw else self.closed
        follows: tuple[Part, ...] = (Gap.SPACE, (self.key, self.end))
        ends = [mark(self.pad + closed, ahead=follows)] if is_padded else []
        ends.append(mark(closed, ahead=follows))
        if is_padded:
            ends += [
                mark(self.pad, ahead=(self.key,)),
                mark(self.pad, ahead=(self.end, Gap.SPACE, ("</tool_call>", Gap.END))),
            ]
        if self.may_not_close:
            ends.append(mark(self.end, ahead=(Gap.SPACE, (self.begin, Gap.END))))
        marks = Marks.of(*ends)
        if kind == "text" or (not kind and values.is_text(schema)):
            output.arguments('"')
            found = yield from reader.until(marks, lambda text: output.arguments(values.escaped(text)))
            if found is not None:
                output.arguments('"')
            return found
        pieces: list[str] = []
        found = yield from reader.until(marks, pieces.append)
        if found is not None:
            output.arguments(values.as_json("".join(pieces), schema if not kind else {}))
        return found

    # -- grammar

    def write(self, wanted: WantedCalls, tool: Tool) -> str:
        """The body of one call, `begin` included."""
        lark = wanted.lark
        line = lark.text(self.line) if self.line else ""
        begin = lark.text(self.begin + tool.name + self.named)
        if self.numbered:
            begin += f" /[0-9]{{1,3}}/ {lark.text(self.numbered)}"
        ways = []
        for known, required, others in values.parameters(tool.parameters):
            arguments = [
                body if name in required else lark.maybe(body)
                for name, schema in known.items()
                for body in (f"{self._write_argument(lark, lark.text(name), schema)} {line}",)
            ]
            if others is not None:
                arguments.append(f"({self._write_argument(lark, KEY_REGEX, others)} {line})*")
            ways.append(" ".join([begin, line, *arguments, lark.text(self.end)]))
        return lark.either(ways)

    def _write_argument(self, lark: Lark, name: str, schema: Schema) -> str:
        if self.typed is None:
            keyed = self.keyed + (self.line + self.valued if self.valued else "")
            value = values.write_value(lark, schema, self.closed, self.pad)
            return f"{lark.text(self.key)} {name} {lark.text(keyed)} {value}"
        before, text, other, after = self.typed
        ways = []
        for way in values.ways_of(schema):
            for kind in [text] if way.is_text else [other] if other else _kinds(way):
                begin = f"{lark.text(self.key)} {name} {lark.text(before + kind + after)}"
                typed = way if other or way.is_text else way._replace(schema=_of_kind(way, kind))
                ways.append(f"{begin} {values.write_way(lark, typed, self.closed)}")
        return lark.either(ways)


def _kinds(way: values.Way) -> list[str]:
    """The types that a value is told to have; "number" for whole ones too."""
    return sorted({"number" if kind == "integer" else kind for kind in values.types_of(way.schema) - {"string"}})


def _of_kind(way: values.Way, kind: str) -> Schema:
    kinds = {"number", "integer"} if kind == "number" else {kind}
    return {**way.schema, "type": sorted(kinds & values.types_of(way.schema))}


def read_section(it: Reading, tags: Tags, end: str) -> Steps[Outcome]:
    """Calls up to `end`, or to what is no call; the section's begin is taken."""
    n_read = 0
    while True:
        if (yield from it.reader.closes(end)):
            return "whole" if n_read else "not a call"
        if not (yield from it.reader.closes(tags.begin)):
            return "whole" if n_read else "not a call"
        outcome = yield from tags.read(it)
        if outcome != "whole":
            return "broken" if n_read else outcome
        n_read += 1


def write_section(wanted: WantedCalls, tags: Tags, begin: str, end: str) -> str:
    """The body of a section of calls."""
    lark = wanted.lark
    call = lark.either(tags.write(wanted, tool) for tool in wanted.tools)
    line = lark.text(tags.line) if tags.line else ""
    return f"{lark.text(begin)} {lark.many(call, line) if wanted.many else call} {line} {lark.text(end)}"


def is_of_name(character: str) -> bool:
    """May it be part of a function's name?"""
    return character.isalnum() or character in _NAME_MARKS
