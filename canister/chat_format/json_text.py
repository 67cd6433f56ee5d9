"""JSON that comes in pieces: one value at a time, passed on as it comes, and calls written as JSON objects."""

from __future__ import annotations

import json
import re

from canister.chat_format import strict_json
from canister.chat_format.marks import Gap
from canister.chat_format.reader import Reader, Steps, Take, never
from canister.chat_format.reading import Outcome, Reading

NAME_KEYS = ("name", "function_name", "tool_name")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
_WRAPPING_KEY = "function"
_OTHER_KEYS = ("type", "index", "id", "tool_call_id", "call_id")  # such ids begin anew in each answer: "0", "1"

_IN_STRING = re.compile(r'["\\\x00-\x1f]')
_OUTSIDE = re.compile(r'["{}\[\]]')
_SCALAR_END = re.compile(r"[\s,\]}]")


class _Value:
    """One value, from its first character on. Bare control characters in strings, which JSON forbids, are escaped."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._depth = 0
        self._is_scalar = self._is_string = self._is_escaped = False
        self._is_begun = False

    def scan(self, text: str, at: int) -> tuple[int, bool]:
        start = at
        while at < len(text):
            if not self._is_begun:
                self._is_begun = True
                self._is_scalar = text[at] not in '"{['
            if self._is_scalar:
                end = _SCALAR_END.search(text, at)
                at = len(text) if end is None else end.start()
                self._take(text[start:at])
                return at, end is not None
            if self._is_escaped:
                self._is_escaped = False
                at += 1
                continue
            found = (_IN_STRING if self._is_string else _OUTSIDE).search(text, at)
            if found is None:
                at = len(text)
                break
            at = found.end()
            character = found.group()
            if not self._is_string:
                self._is_string = character == '"'
                self._depth += (character in "{[") - (character in "}]")
            elif character == "\\":
                self._is_escaped = True
                continue
            elif character == '"':
                self._is_string = False
            else:
                self._take(text[start : at - 1] + json.dumps(character)[1:-1])
                start = at
                continue
            if self._depth <= 0 and not self._is_string:
                self._take(text[start:at])
                return at, True
        if at > start:
            self._take(text[start:at])
        return at, False


def value(reader: Reader, take: Take) -> Steps[bool]:
    """Read one JSON value. False: the text ended in it."""
    if not (yield from reader.skip_space()):
        return False
    one = _Value(take)
    return (yield from reader.run(one.scan, never)) or (one._is_scalar and not reader.is_cut)


def whole_value(reader: Reader) -> Steps[str | None]:
    """The text of one JSON value, once all of it is there; None: the text ended before."""
    pieces: list[str] = []
    return "".join(pieces) if (yield from value(reader, pieces.append)) else None


def decoded(text: str | None) -> object:
    """The value of this JSON; None if it is no JSON."""
    try:
        return strict_json.loads(text or "null")
    except ValueError:
        return None


def arguments(it: Reading) -> Steps[bool]:
    """The arguments of a begun call: an object, as it comes, or one written as a text."""
    reader, output = it.reader, it.output
    first = yield from reader.skip_space()
    if first == "{":
        return (yield from value(reader, output.arguments))
    text = yield from whole_value(reader)
    inner = decoded(text)
    if inner in (None, "", []) and text is not None:
        output.arguments("{}")
    elif isinstance(inner, str):
        output.arguments(inner)
    else:
        return False
    return True


def call(it: Reading) -> Steps[Outcome]:
    """A call written as {"name": …, "arguments": {…}}, with keys in any order and under the names that models use.

    Nothing is reported before the name is there and is that of a tool.
    """
    return (yield from _Call(it).object())


class _Call:
    def __init__(self, it: Reading) -> None:
        self._it = it
        self._reader = it.reader
        self._output = it.output
        self._early_arguments: str | None = None
        self._name = ""
        self._has_arguments = False

    def object(self) -> Steps[Outcome]:
        outcome = yield from self._members()
        if outcome != "whole":
            return "broken" if self._name else "not a call"
        if not self._name:
            return "not a call"
        if not self._has_arguments:
            self._output.arguments("{}")
        return "whole" if self._output.end_call() else "broken"

    def _members(self) -> Steps[Outcome]:
        reader = self._reader
        if not (yield from reader.closes("{")):
            return "not a call"
        while True:
            first = yield from reader.skip_space()
            if first == "}":
                yield from reader.takes("}")
                return "whole"
            if first == ",":
                yield from reader.takes(",")
                continue
            key = decoded((yield from whole_value(reader)) if first == '"' else None)
            if not isinstance(key, str) or not (yield from reader.closes(":")):
                return "broken"
            if not (yield from self._member(key)):
                return "broken"

    def _member(self, key: str) -> Steps[bool]:
        reader, output = self._reader, self._output
        first = yield from reader.skip_space()
        if key == _WRAPPING_KEY and first == "{" and not self._name:
            return (yield from self._members()) == "whole"
        if key in NAME_KEYS or key == _WRAPPING_KEY:
            name = decoded((yield from whole_value(reader)))
            if self._name or not isinstance(name, str) or name not in self._it.tools:
                return False
            self._name = name
            self._it.begin(name)
            if self._early_arguments is not None:
                output.arguments(self._early_arguments)
            return True
        if key in ARGUMENT_KEYS and not self._has_arguments:
            self._has_arguments = True
            if self._name:
                return (yield from arguments(self._it))
            text = yield from whole_value(reader)
            inner = decoded(text)
            self._early_arguments = inner if isinstance(inner, str) else text
            return text is not None
        if self._name or key in _OTHER_KEYS:
            return (yield from value(reader, never))
        return False


def named_call(it: Reading, name: str, call_id: str | None = None) -> Steps[Outcome]:
    """A call whose name was already read. Its arguments come next."""
    if name not in it.tools:
        return "not a call"
    it.begin(name, call_id)
    return "whole" if (yield from arguments(it)) and it.output.end_call() else "broken"


def calls(it: Reading, end: str = "") -> Steps[Outcome]:
    """Calls in a JSON list, or one after the other, up to `end`, which is taken."""
    is_list = yield from it.reader.closes("[")
    outcome = yield from call(it)
    while outcome == "whole":
        if is_list and (yield from it.reader.closes("]")):
            break
        if is_list and not (yield from it.reader.closes(",")):
            return "broken"
        if not is_list and not (yield from it.reader.takes(Gap.SPACE, ahead=("{",))):
            break
        if (following := (yield from call(it))) != "whole":
            return "broken" if is_list or following == "broken" else "whole"
    if outcome == "whole" and end:
        yield from it.reader.closes(end.strip())
    return outcome
