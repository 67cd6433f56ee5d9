"""A grammar in llguidance's Lark dialect, made of the parts of chat formats. Pure.

Marks that the vocabulary has as special tokens are written as those, everything else as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from canister import json_schema

# Between the parts of a JSON text a model may break lines and indent, but not without end.
SPACE = r"/[ \t\n\r]{0,20}/"
ANY_TEXT = "(?s:.*)"
_NAMED_TOKEN = re.compile(r"<[^<>\s\[\]\"\\][^<>\s\"\\]*>")
_REGEX_SPECIAL = re.compile(r"([\\/.*+?()\[\]{}|^$])")


class Lark:
    """The rules so far. The same body is the same rule.

    special_tokens: texts and ids of the vocabulary's special tokens. None: unknown here, and the sampler looks up those
    of `marks` that can be named.
    """

    def __init__(self, special_tokens: Mapping[str, int] | None = None, marks: Iterable[str] = ()) -> None:
        self._rules: dict[str, str] = {}
        self._defined: dict[str, str] = {}
        self._n_names = 0
        if special_tokens is None:
            self._tokens = {text: text for text in marks if _NAMED_TOKEN.fullmatch(text)}
        else:
            self._tokens = {text: f"<[{token}]>" for text, token in special_tokens.items() if text}
        texts = sorted(self._tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, texts))) if texts else None

    # -- parts of a body

    def text(self, text: str) -> str:
        """This very text."""
        parts: list[str] = []
        at = 0
        for found in self._special.finditer(text) if self._special else ():
            if found.start() > at:
                parts.append(_quoted(text[at : found.start()]))
            parts.append(self._tokens[found.group()])
            at = found.end()
        if at < len(text) or not text:
            parts.append(_quoted(text[at:]))
        return " ".join(parts)

    def json(self, schema: object) -> str:
        """A JSON value of this schema."""
        if isinstance(schema, dict):
            schema = {**schema, "x-guidance": {"whitespace_pattern": json_schema.WHITESPACE}}
        return self.rule("%json " + json.dumps(schema, ensure_ascii=False))

    def until(self, end: str, regex: str = ANY_TEXT) -> str:
        """Text that the regex takes, up to the first `end`, which is taken too."""
        found = self._special.search(end) if self._special else None
        if found is None:
            return self.rule(f"/{regex}/", f"[suffix={_quoted(end)}]")
        before = regex_of(end[: found.start()])  # special tokens end a text, no text ends before them
        return f"{self.rule(f'/{regex}{before}/')} {self.text(end[found.start() :])}"

    def either(self, bodies: Iterable[str]) -> str:
        """One of these."""
        bodies = list(dict.fromkeys(bodies))
        return bodies[0] if len(bodies) == 1 else self.rule(" | ".join(bodies))

    def many(self, body: str, separator: str = "") -> str:
        """One or more of these, with separators between them."""
        one = self.rule(body)
        return f"{one} ({separator} {one})*"

    def maybe(self, body: str) -> str:
        return f"({body})?"

    # -- the grammar

    def rule(self, body: str, attributes: str = "") -> str:
        """The name of a rule with this body."""
        key = f"{attributes}: {body}"
        return self._rules.setdefault(key, f"r{len(self._rules)}")

    def name(self) -> str:
        """A name for a rule that is defined later: one that calls itself."""
        self._n_names += 1
        return f"n{self._n_names}"

    def define(self, name: str, body: str) -> None:
        """What the rule of this name is."""
        self._defined[name] = body

    def grammar(self, start: str) -> str:
        """The whole grammar, for what begins with `start`."""
        named = [f"{name}: {body}" for name, body in self._defined.items()]
        return "\n".join([f"start: {start}", *(f"{name}{key}" for key, name in self._rules.items()), *named])


def regex_of(text: str) -> str:
    """A regular expression for this very text."""
    return _REGEX_SPECIAL.sub(r"\\\1", text).replace("\n", "\\n")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
