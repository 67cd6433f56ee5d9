"""Literals of JSON and of Python, which models write where JSON was meant: made JSON."""

from __future__ import annotations

import ast
import json
import re
import warnings

from canister.chat_format import strict_json

MAX_CHARACTERS = 1 << 20
_PYTHON = re.compile(r"""\s*(?:["'(\[{]|(?:True|False|None)\s*\Z)""")  # numbers are JSON's: 1_000 is a text
_WORDS = {"true": True, "false": False, "null": None}


def as_json(text: str) -> str | None:
    """The JSON text of a literal; None for what is none."""
    if len(text) > MAX_CHARACTERS:
        return None
    try:
        strict_json.loads(text)
        return text.strip()
    except ValueError:
        if not _PYTHON.match(text):
            return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a strange escape in a text is the model's
            told = _value(ast.parse(text.strip(), mode="eval").body)
        return json.dumps(told, ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.Dict):
        return {str(_key(key)): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | None):
        raise ValueError(value)
    return value


def _key(node: ast.expr | None) -> object:
    if node is None:
        raise ValueError("a dict within a dict")
    return _value(node)
