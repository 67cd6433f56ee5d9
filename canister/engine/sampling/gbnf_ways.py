"""In how many ways a GBNF grammar may be read at one place, by its text alone.

llama.cpp keeps each way in which a text may go on. Taking a token compares what every one of them leads to with all the
others, in one call that nobody can end; so a grammar of few bytes can keep a processor for hours. Here nothing is kept:
each rule is looked at once, and what is counted is an upper bound, since equal ways count as several.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<define>[A-Za-z0-9-]+\s*::=)
    |(?P<terminal>"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\.|!?<[^>]*>)
    |(?P<reference>[A-Za-z0-9-]+)
    |(?P<repeat>[?*+]|\{\s*\d*\s*(?:,\s*\d*\s*)?\})
    |(?P<mark>[()|])
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Ways:
    """Of an element, or of elements in a row.

    first: characters that it may begin with. is_nullable: may it be nothing? ending: of those characters, after how
    many it may be over. pairs: ways to go on in it after one of them, all together. worst: the most pairs anywhere in
    it.
    """

    first: int = 0
    is_nullable: bool = False
    ending: int = 0
    pairs: int = 0
    worst: int = 0

    def then(self, after: Ways) -> Ways:
        """One after the other."""
        pairs = self.pairs + self.ending * after.first + (after.pairs if self.is_nullable else 0)
        return Ways(
            self.first + (after.first if self.is_nullable else 0),
            self.is_nullable and after.is_nullable,
            (self.ending if after.is_nullable else 0) + (after.ending if self.is_nullable else 0),
            pairs,
            max(self.worst, after.worst, pairs),
        )

    def or_(self, other: Ways) -> Ways:
        """One or the other."""
        pairs = self.pairs + other.pairs
        return Ways(
            self.first + other.first,
            self.is_nullable or other.is_nullable,
            self.ending + other.ending,
            pairs,
            max(self.worst, other.worst, pairs),
        )

    def repeated(self, mark: str) -> Ways:
        """mark: such as ?, *, + or {2,3}."""
        least, most = _bounds(mark)
        if most == 0:
            return NOTHING
        pairs = self.pairs + (0 if most == 1 else self.ending * self.first)
        is_nullable = self.is_nullable or least == 0
        return Ways(self.first, is_nullable, self.ending, pairs, max(self.worst, pairs))


NOTHING = Ways(is_nullable=True)
_TERMINAL = Ways(first=1, ending=1)
_NO_WAY = Ways()


def _bounds(mark: str) -> tuple[int, int | None]:
    if mark[0] != "{":
        return {"?": (0, 1), "*": (0, None), "+": (1, None)}[mark]
    numbers = [number.strip() for number in mark[1:-1].split(",")]
    least = int(numbers[0] or 0)
    return least, (least if len(numbers) == 1 else int(numbers[1]) if numbers[1] else None)


_Element = tuple["str | _Alternatives | None", str | None]
"""A terminal (None), the name of a rule, or the alternatives of a group; and how it is repeated."""
_Alternatives = list[list[_Element]]

MOST_PASSES = 8


def most_pairs(text: str) -> int:
    """The most ways, anywhere in the grammar, to go on after the next character, over all ways to read that."""
    rules = _rules(text)
    order = _order(rules)
    known = dict.fromkeys(order, _NO_WAY)
    for _ in range(MOST_PASSES):  # the second one knows what rules lead to that are part of themselves
        before = dict(known)
        for name in order:
            known[name] = _of_alternatives(rules[name], known)
        if known == before:
            break
    return max((ways.worst for ways in known.values()), default=0)


def _of_alternatives(alternatives: _Alternatives, known: Mapping[str, Ways]) -> Ways:
    found = _NO_WAY
    for row in alternatives:
        after = NOTHING
        for element, mark in reversed(row):
            if element is None:
                ways = _TERMINAL
            elif isinstance(element, str):
                ways = known.get(element, _NO_WAY)
            else:
                ways = _of_alternatives(element, known)
            after = (ways if mark is None else ways.repeated(mark)).then(after)
        found = found.or_(after)
    return found


def _order(rules: Mapping[str, _Alternatives]) -> list[str]:
    """The rules, each behind those that it names, but for those that lead back to it."""
    order: dict[str, None] = {}
    seen: set[str] = set()
    for root in rules:
        waiting = [(root, False)]
        while waiting:
            name, is_done = waiting.pop()
            if is_done:
                order.setdefault(name)
            elif name not in seen:
                seen.add(name)
                waiting.append((name, True))
                waiting.extend((each, False) for each in _named(rules[name]) if each in rules)
    return list(order)


def _named(alternatives: _Alternatives) -> Iterator[str]:
    for row in alternatives:
        for element, _ in row:
            if isinstance(element, str):
                yield element
            elif element is not None:
                yield from _named(element)


def _rules(text: str) -> dict[str, _Alternatives]:
    """The rules by name. What is no grammar is read somehow: llama.cpp refuses it."""
    rules: dict[str, _Alternatives] = {}
    open_groups: list[_Alternatives] = [[[]]]
    for found in _TOKEN.finditer(text):
        kind, row = found.lastgroup, open_groups[-1][-1]
        if kind == "define":
            open_groups = [[[]]]
            rules[found[0].removesuffix("::=").strip()] = open_groups[0]
        elif kind == "terminal":
            row.append((None, None))
        elif kind == "reference":
            row.append((found[0], None))
        elif kind == "repeat" and row:
            row[-1] = row[-1][0], found[0] if row[-1][1] is None else "*"
        elif found[0] == "(":
            open_groups.append([[]])
            row.append((open_groups[-1], None))
        elif found[0] == "|":
            open_groups[-1].append([])
        elif found[0] == ")" and len(open_groups) > 1:
            open_groups.pop()
    return rules
