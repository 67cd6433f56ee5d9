"""Calls written as Python: [get_weather(city="Zürich"), get_time()]."""

from __future__ import annotations

import re
from collections.abc import Sequence

from canister.chat_format import literals, values
from canister.chat_format.family import WantedCalls
from canister.chat_format.lark import Lark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.schemas import Schema
from canister.chat_format.tagged import KEY_REGEX, is_of_name
from canister.chat_format.tools import Tool

_NAMED = re.compile(r"\s*([^\s=,()\[\]{}'\"]+)\s*=")


def read_calls(it: Reading, end: str = "") -> Steps[Outcome]:
    """Calls in a list or one after the other, up to `end`, which is taken. A list is reported only when it is
    closed.
    """
    reader = it.reader
    is_list = yield from reader.closes("[")
    told: list[tuple[str, str]] = []
    while True:
        yield from reader.skip_space()
        name = (yield from reader.while_(is_of_name)).removesuffix(".call")
        if name not in it.tools or not (yield from reader.takes("(")):
            return "broken" if told and not is_list else "not a call"
        written = yield from _arguments(it)
        if written is None:
            return "broken"
        told.append((name, written))
        if not is_list:
            _tell(it, told[-1:])
        if is_list and (yield from reader.closes("]")):
            _tell(it, told)
            break
        if (yield from reader.closes(",")) or (not is_list and (yield from reader.closes(";"))):
            continue
        if is_list:
            return "broken"
        break
    if end:
        yield from reader.closes(end)
    return "whole"


def _tell(it: Reading, calls: Sequence[tuple[str, str]]) -> None:
    for name, arguments in calls:
        it.begin(name)
        it.output.arguments(arguments)
        it.output.end_call()


def _arguments(it: Reading) -> Steps[str | None]:
    """The JSON text of the arguments up to the closing bracket; None if they are no list of arguments."""
    scan = _Brackets()
    if not (yield from it.reader.run(scan.scan, scan.take)):
        return None
    return arguments_of("".join(scan.pieces)[:-1])


class _Brackets:
    """Text up to the bracket that closes what was opened before, or, with `ends`, to one of these outside of all."""

    def __init__(self, ends: str = "") -> None:
        self.pieces: list[str] = []
        self._ends = ends
        self._depth = 1
        self._quote = ""
        self._is_escaped = False

    def take(self, text: str) -> None:
        self.pieces.append(text)

    def scan(self, text: str, at: int) -> tuple[int, bool]:
        while at < len(text):
            character = text[at]
            at += 1
            if self._is_escaped:
                self._is_escaped = False
            elif self._quote:
                self._is_escaped = character == "\\"
                self._quote = "" if character == self._quote else self._quote
            elif character in "\"'":
                self._quote = character
            else:
                self._depth += (character in "([{") - (character in ")]}")
                if self._depth == 0 or (self._depth == 1 and character in self._ends):
                    return at, True
        return at, False


def arguments_of(text: str) -> str | None:
    """{"city": "Zürich"} for city="Zürich"; None for what is no list of named arguments."""
    told: dict[str, str] = {}
    at = 0
    while text[at:].strip():
        named = _NAMED.match(text, at)
        if named is None or named[1] in told:
            return None
        end, is_comma = _Brackets(",").scan(text, named.end())
        value = literals.as_json(text[named.end() : end - is_comma])
        if value is None:
            return None
        told[named[1]] = value
        at = end
    return "{" + ", ".join(f"{values.quoted(name)}: {value}" for name, value in told.items()) + "}"


# -- grammar


def write_call(wanted: WantedCalls, tool: Tool) -> str:
    """The body of one call."""
    lark = wanted.lark
    ways = [
        _write_arguments(lark, known, required, others)
        for known, required, others in values.parameters(tool.parameters)
    ]
    return f"{lark.text(tool.name + '(')} {lark.either(ways)} {lark.text(')')}"


def write_list(wanted: WantedCalls, begin: str = "[", end: str = "]") -> str:
    """The body of a list of calls."""
    lark = wanted.lark
    call = lark.either(write_call(wanted, tool) for tool in wanted.tools)
    calls = lark.many(call, lark.text(", ")) if wanted.many else call
    return f"{lark.text(begin)} {calls} {lark.text(end)}"


def _write_arguments(lark: Lark, known: dict[str, Schema], required: frozenset[str], others: Schema | None) -> str:
    bodies = [
        (f"{lark.text(name + '=')} {lark.json(dict(schema))}", name in required) for name, schema in known.items()
    ]
    rest = f'({lark.text(", ")} {KEY_REGEX} "=" {lark.json(dict(others))})*' if others is not None else ""
    if not bodies and others is not None:
        return lark.maybe(f'{KEY_REGEX} "=" {lark.json(dict(others))} {rest}')
    return separated(lark, bodies, rest)


def separated(lark: Lark, bodies: Sequence[tuple[str, bool]], rest: str = "", separator: str = ", ") -> str:
    """The rule body for parts in this order, with a separator between them: (body, must it be there)."""
    if not bodies:
        return lark.text("")
    first = next((at for at, (_, is_required) in enumerate(bodies) if is_required), len(bodies) - 1)
    ways = []
    for begin in range(first + 1):
        parts = [bodies[begin][0]]
        for body, is_required in bodies[begin + 1 :]:
            more = f"{lark.text(separator)} {body}"
            parts.append(more if is_required else lark.maybe(more))
        ways.append(" ".join([*parts, rest]))
    if not any(is_required for _, is_required in bodies):
        ways.append(lark.text(""))
    return lark.either(ways)
