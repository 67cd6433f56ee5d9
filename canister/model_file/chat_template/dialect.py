"""The Jinja that chat templates are written in, as llama.cpp reads it, on Jinja2's sandbox.

Blocks are trimmed, and there are loop controls, `{% generation %}`, lists that grow and a `tojson` that does not escape
for HTML. What is undefined has undefined members, adds nothing to a text, and, like null, is written as nothing.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

_LIST_METHODS = frozenset({"append", "insert", "pop"})  # the lists are this rendering's own
_NOTHING = (type(None), jinja2.Undefined)


def environment() -> jinja2.Environment:
    made = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
        undefined=_Unknown,
        finalize=_written,
        cache_size=0,
    )
    made.filters["tojson"] = _tojson
    made.filters["default"] = made.filters["d"] = _default
    made.filters["safe"] = lambda value: value  # nothing is escaped, so nothing is to be marked
    return made


class _Unknown(jinja2.ChainableUndefined):
    """Has these methods, as of an empty object and an empty text."""

    def items(self) -> list[object]:
        return []

    def strip(self, *_: object) -> str:
        return ""

    lower = upper = title = capitalize = replace = strip


class Watched(list[object]):
    """An empty list that knows whether a template has gone through it."""

    is_read = False

    def __iter__(self) -> Iterator[object]:
        self.is_read = True  # with the first step only: templates also ask whether they could
        yield from ()

    def __getitem__(self, index: Any) -> Any:
        self.is_read = True
        return super().__getitem__(index)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+"})

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        return (isinstance(obj, list) and attr in _LIST_METHODS) or super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: object, attribute: str) -> jinja2.Undefined:
        """Unlike what a template just does not know, this has no members."""
        return jinja2.Undefined(f"{attribute!r} is not for templates", obj, attribute, SecurityError)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, _NOTHING) and isinstance(right, str):
            return right
        if isinstance(right, _NOTHING) and isinstance(left, str):
            return left
        return left + right


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the model says; it writes nothing."""

    tags = {"generation"}  # noqa: RUF012  Jinja's form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _written(value: object) -> object:
    return "" if value is None else value


def _default(value: object, otherwise: object = "", boolean: bool = False) -> object:
    return otherwise if isinstance(value, _NOTHING) or (boolean and not value) else value


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_jsonable,
    )


def _jsonable(value: object) -> object:
    if isinstance(value, jinja2.Undefined):
        return None
    if isinstance(value, Generator | map | filter):
        return list(value)
    raise jinja2.TemplateRuntimeError("tojson takes texts, numbers, lists and objects")
