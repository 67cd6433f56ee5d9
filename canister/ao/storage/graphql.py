"""GraphQL documents with one query: read into fields with their arguments. No schema and no I/O here.

What gateways are asked with is taken: variables, aliases, fragments, `@include` and `@skip`. Length, depth and number
of fields are bounded, so every document is read in a bounded number of steps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from canister.ao.encoding import Malformed

MAX_DOCUMENT_CHARACTERS = 20_000
MAX_FIELDS = 1000
MAX_DEPTH = 20
Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
_TOKEN = re.compile(
    r"[\s,\ufeff]+|#[^\n]*|(?P<token>[_A-Za-z][_0-9A-Za-z]*|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
    r'|"""(?:[^"]|"(?!""))*"""|"(?:[^"\\\n]|\\.)*"|\.\.\.|[!$&():=@\[\]{}|])'
)
_NAME = re.compile(r"[_A-Za-z][_0-9A-Za-z]*")


@dataclass(frozen=True, slots=True)
class Field:
    """key: what the answer calls it. fields: what is asked of it, in order."""

    name: str
    key: str
    arguments: Mapping[str, Value]
    fields: tuple[Field, ...]


def read_query(
    document: str, variables: Mapping[str, Value] | None = None, operation: str | None = None
) -> tuple[Field, ...]:
    """The fields of the query, or of the one that `operation` names. Raises Malformed."""
    if len(document) > MAX_DOCUMENT_CHARACTERS:
        raise Malformed(f"the query has {len(document)} characters; at most {MAX_DOCUMENT_CHARACTERS} are taken")
    reader = _Reader(_tokens(document), dict(variables or {}))
    return reader.document(operation)


def _tokens(document: str) -> list[str]:
    tokens = []
    at = 0
    while at < len(document):
        found = _TOKEN.match(document, at)
        if found is None:
            raise Malformed(f"the query has {document[at : at + 20]!r}, which is no GraphQL")
        at = found.end()
        if found["token"]:
            tokens.append(found["token"])
    return tokens


class _Reader:
    def __init__(self, tokens: list[str], variables: dict[str, Value]) -> None:
        self.tokens, self.at = tokens, 0
        self.given = variables
        self.variables: dict[str, Value] = {}
        self.fragments: dict[str, int] = {}  # where each begins
        self.n_fields = 0

    def document(self, operation: str | None) -> tuple[Field, ...]:
        places: dict[str, int] = {}
        while self.at < len(self.tokens):
            start = self.at
            word = self.tokens[start]
            if word == "fragment":
                self.fragments[self._name_at(start + 1)] = start + 4  # its name, `on`, a type
            elif word in ("query", "{"):
                named = word == "query" and _NAME.fullmatch(self._token_at(start + 1))
                places[self.tokens[start + 1] if named else ""] = start
            else:
                raise Malformed(f"the query begins with {word[:20]!r}; only queries are taken here")
            self._pass_block()
        if operation is not None and operation not in places:
            raise Malformed(f"there is no query {operation[:40]!r} in the document")
        if not places or (operation is None and len(places) > 1):
            raise Malformed("the document must have one query, or name with operationName the one that is meant")
        self.at = places[operation] if operation is not None else next(iter(places.values()))
        if self._peek() == "query":
            self.at += 1
            if _NAME.fullmatch(self._peek()):
                self.at += 1
            if self._peek() == "(":
                self._definitions()
            self._directives()
        return self._selections(0)

    def _definitions(self) -> None:
        self._expect("(")
        while self._peek() != ")":
            self._expect("$")
            name = self._name()
            self._expect(":")
            is_required = self._type()
            if self._peek() == "=":
                self.at += 1
                self.variables[name] = self._value(0)
            if name in self.given:
                self.variables[name] = self.given[name]
            elif is_required and name not in self.variables:
                raise Malformed(f"the variable ${name[:40]} has no value")
            self._directives()
        self.at += 1

    def _type(self) -> bool:
        n_open = 0
        while self._peek() == "[":
            self.at += 1
            n_open += 1
        self._name()
        is_required = self._skip("!")
        for _ in range(n_open):
            self._expect("]")
            is_required = self._skip("!")
        return is_required

    def _selections(self, depth: int) -> tuple[Field, ...]:
        if depth > MAX_DEPTH:
            raise Malformed(f"the query is nested more than {MAX_DEPTH} times")
        self._expect("{")
        fields: list[Field] = []
        while self._peek() != "}":
            self.n_fields += 1
            if self.n_fields > MAX_FIELDS:
                raise Malformed(f"the query asks for more than {MAX_FIELDS} fields")
            if self._peek() == "...":
                fields += self._spread(depth)
                continue
            name = key = self._name()
            if self._skip(":"):
                name = self._name()
            arguments = self._arguments(depth) if self._peek() == "(" else {}
            is_wanted = self._directives()
            below = self._selections(depth + 1) if self._peek() == "{" else ()
            if is_wanted:
                fields.append(Field(name, key, arguments, below))
        self.at += 1
        return tuple(fields)

    def _spread(self, depth: int) -> tuple[Field, ...]:
        self._expect("...")
        if self._peek() == "on":
            self.at += 2
        if self._peek() in ("{", "@"):
            is_wanted = self._directives()
            fields = self._selections(depth + 1)
            return fields if is_wanted else ()
        name = self._name()
        is_wanted = self._directives()
        if name not in self.fragments:
            raise Malformed(f"there is no fragment {name[:40]!r} in the document")
        back, self.at = self.at, self.fragments[name]
        self._directives()
        fields = self._selections(depth + 1)  # one that spreads itself ends at the depth
        self.at = back
        return fields if is_wanted else ()

    def _arguments(self, depth: int) -> dict[str, Value]:
        self._expect("(")
        found: dict[str, Value] = {}
        while self._peek() != ")":
            name = self._name()
            self._expect(":")
            found[name] = self._value(depth)
        self.at += 1
        return found

    def _directives(self) -> bool:
        """False when one of them says that what follows is not wanted."""
        is_wanted = True
        while self._skip("@"):
            name = self._name()
            asked = self._arguments(0) if self._peek() == "(" else {}
            if name in ("include", "skip"):
                is_wanted = is_wanted and bool(asked.get("if")) == (name == "include")
        return is_wanted

    def _value(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise Malformed(f"a value in the query is nested more than {MAX_DEPTH} times")
        token = self._next()
        if token == "$":
            return self.variables.get(self._name())
        if token == "[":
            items: list[Value] = []
            while self._peek() != "]":
                items.append(self._value(depth + 1))
            self.at += 1
            return items
        if token == "{":
            found: dict[str, Value] = {}
            while self._peek() != "}":
                name = self._name()
                self._expect(":")
                found[name] = self._value(depth + 1)
            self.at += 1
            return found
        return _plain(token)

    def _pass_block(self) -> None:
        """Over one definition, up to the end of its braces."""
        depth = 0
        while self.at < len(self.tokens):
            token = self._next()
            depth += (token == "{") - (token == "}")
            if token == "}" and depth == 0:
                return
        raise Malformed("the query ends within its braces")

    def _peek(self) -> str:
        return self._token_at(self.at)

    def _next(self) -> str:
        self.at += 1
        return self._token_at(self.at - 1)

    def _token_at(self, at: int) -> str:
        if at >= len(self.tokens):
            raise Malformed("the query ends too early")
        return self.tokens[at]

    def _name_at(self, at: int) -> str:
        token = self._token_at(at)
        if not _NAME.fullmatch(token):
            raise Malformed(f"the query has {token[:20]!r} where a name must be")
        return token

    def _name(self) -> str:
        self.at += 1
        return self._name_at(self.at - 1)

    def _expect(self, token: str) -> None:
        found = self._next()
        if found != token:
            raise Malformed(f"the query has {found[:20]!r} where {token!r} must be")

    def _skip(self, token: str) -> bool:
        is_there = self.at < len(self.tokens) and self.tokens[self.at] == token
        self.at += is_there
        return is_there


def _plain(token: str) -> Value:
    words: dict[str, Value] = {"true": True, "false": False, "null": None}
    if token in words:
        return words[token]
    if token.startswith('"""'):
        return token[3:-3].strip()
    if token.startswith('"') or token[0].isdigit() or token[0] == "-":
        try:
            value: Value = json.loads(token)
        except ValueError:
            raise Malformed(f"the value {token[:40]!r} in the query is none of JSON's") from None
        return value
    if not _NAME.fullmatch(token):
        raise Malformed(f"the query has {token[:20]!r} where a value must be")
    return token  # of an enumeration
