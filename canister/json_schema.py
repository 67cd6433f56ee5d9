"""JSON schemas before they bind an answer: rewritten so that llguidance binds them, or refused.

Pure. Words that assert nothing are dropped, so no schema is refused for them. Words whose meaning would be lost are
refused by name and place, and so is what would take too long or too much stack. As with llama.cpp, an object with named
properties has no others unless it says so, since a model would make some up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from urllib.parse import unquote

from canister.errors import BadRequest

MAX_DEPTH = 100  # lists and objects within each other; what reads them takes 128
MAX_LEVELS = 2000  # schemas within each other, through references too: each takes some kilobytes of stack
MAX_SCHEMAS = 50_000
MAX_DIVISOR = 10_000
MAX_OPTIONAL = 1200  # properties that may all be next; llguidance gives up at 1250 of them, after a minute for 8000
SHOWN_CHARACTERS = 80

CHECKED_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown")
)
WHITESPACE = r"( |\n{1,2}[ \t]{0,20})?"  # llama.cpp's; any more, and a small model does not end
_INDEX = re.compile(r"[0-9]{1,9}")
_EXAMPLE = '{"type": "object", "properties": {"name": {"type": "string"}}}'

_UNBOUND = frozenset(
    (
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "not",
        "if",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "propertyNames",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
        "$recursiveRef",
    )
)
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalItems", "additionalProperties")
_JOINED = frozenset(("allOf", "anyOf", "oneOf", "$ref"))  # together with their neighbours
_OF_OBJECTS = _JOINED | {"properties", "patternProperties", "additionalProperties", "required"}
_OPEN = _JOINED | {"patternProperties", "additionalProperties"}

Node = dict[str, object]


def unusable(why: str) -> BadRequest:
    """The error for a schema that binds nothing."""
    return BadRequest(f"The JSON schema cannot be used: {why}".encode("utf-8", "replace").decode())


def read(text: str) -> object:
    """A schema from its text. BadRequest."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise unusable(str(error)[:200]) from None


def bindable(schema: object) -> object:
    """The schema as llguidance is given it; what is passed in stays as it is. BadRequest."""
    if isinstance(schema, bool):
        return schema
    _check_depth(schema)
    copy = json.loads(json.dumps(schema))
    if not isinstance(copy, dict):
        raise unusable(f"it is {_shown(copy)}, not an object such as {_EXAMPLE}")
    tree = _Tree(copy)
    tree.walk()
    for node in tree.nodes.values():
        _close(node, tree)
    return {**copy, "x-guidance": {"whitespace_pattern": WHITESPACE}}


@dataclass(slots=True)
class _Tree:
    """All schemas in a schema, by identity, each before those within it.

    parts: those that do not tell all of an object. targets: where references lead.
    """

    root: Node
    nodes: dict[int, Node] = field(default_factory=dict)
    parts: set[int] = field(default_factory=set)
    targets: set[int] = field(default_factory=set)

    def walk(self) -> None:
        """Look at each once, and put it in order."""
        waiting: list[tuple[Node, str]] = [(self.root, "#")]
        while waiting:
            node, place = waiting.pop()
            if id(node) in self.nodes:
                continue
            self.nodes[id(node)] = node
            if len(self.nodes) > MAX_SCHEMAS:
                raise unusable(f"it holds more than {MAX_SCHEMAS} schemas; make it smaller")
            _tidy(node, place)
            if "$ref" in node:
                target = self.target(node, place)
                self.targets.add(id(target[0]))
                waiting.append(target)
            waiting += _children(node, place)
        self._check_levels()
        self._check_optional()
        self._find_parts()

    def _check_levels(self) -> None:
        """Each target is entered once at most, from wherever it is met first: so deep may all of it be at most."""
        depths: dict[int, int] = {}
        for key, node in reversed(self.nodes.items()):
            inner = [child for child, _ in _children(node, "") if id(child) not in self.targets]
            depths[key] = 1 + max((depths.get(id(child), 0) for child in inner), default=0)
        if depths[id(self.root)] + sum(depths.get(key, 0) for key in self.targets) > MAX_LEVELS:
            raise unusable(
                f"its parts and references come to more than {MAX_LEVELS} schemas within each other; make it smaller"
            )

    def _check_optional(self) -> None:
        """Each optional property may come next in an answer, in any branch of a union: so many are kept apart."""
        known: dict[int, int] = {}
        for key, node in reversed(self.nodes.items()):
            known[key] = n = _n_optional(node) + sum(known.get(id(branch), 0) for branch in self._joined_to(node))
            if n > MAX_OPTIONAL:
                raise unusable(
                    f"an object, or a union of objects, has {n} optional properties; at most {MAX_OPTIONAL} can be "
                    "bound: name some in required, or leave some out"
                )

    def target(self, node: Node, place: str) -> tuple[Node, str]:
        """Where a reference leads: to a part of the same schema; nothing is ever fetched."""
        reference = node["$ref"]
        told = f"{place}: $ref {_shown(reference)}"
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise unusable(
                f"{told} is no place in the schema itself, such as #/$defs/name; nothing is fetched from elsewhere"
            )
        seen = {reference}
        while True:
            found = self._at(reference, told)
            following = found.get("$ref")
            if not isinstance(following, str):
                return found, reference
            if following in seen:
                raise unusable(f"{told} leads to itself")
            seen.add(following)
            if not following.startswith("#"):
                return found, reference
            reference = following

    def _at(self, reference: str, told: str) -> Node:
        part: object = self.root
        for name in unquote(reference).split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            if isinstance(part, list) and _INDEX.fullmatch(name) and int(name) < len(part):
                part = part[int(name)]
            elif isinstance(part, dict) and name in part:
                part = part[name]
            else:
                raise unusable(f"{told} leads nowhere: there is no {_shown(name)}")
        if isinstance(part, bool):
            return {}
        if not isinstance(part, dict):
            raise unusable(f"{told} leads to {_shown(part)}, which is no schema")
        return part

    def _find_parts(self) -> None:
        waiting = [node for node in self.nodes.values() if self._tells_together(node)]
        while waiting:
            node = waiting.pop()
            for part in self._joined_to(node):
                if id(part) not in self.parts:
                    self.parts.add(id(part))
                    waiting.append(part)

    def _tells_together(self, node: Node) -> bool:
        """Do several schemas together tell what an object has? With oneOf, each says what the others must not take."""
        return "allOf" in node or "oneOf" in node or len(_OF_OBJECTS & node.keys()) > 1

    def _joined_to(self, node: Node) -> Iterator[Node]:
        for key in ("allOf", "anyOf", "oneOf"):
            branches = node.get(key)
            yield from (one for one in branches if isinstance(one, dict)) if isinstance(branches, list) else ()
        if "$ref" in node:
            yield self._at(str(node["$ref"]), "")


def _tidy(node: Node, place: str) -> None:
    """Drop what asserts nothing; refuse what cannot be bound."""
    node.pop("x-guidance", None)  # would change what the words mean
    for word in ("$id", "id"):
        base = node.get(word)
        if isinstance(base, str) and place != "#" and not base.startswith("#"):
            raise unusable(f"{place}: {word} of a part cannot be bound; leave it out")
        if isinstance(base, str):
            del node[word]  # references are places in the whole schema
    for word in ("$dynamicAnchor", "$recursiveAnchor", *(("then", "else") if "if" not in node else ())):
        node.pop(word, None)
    name = node.get("format")
    if isinstance(name, str) and name not in CHECKED_FORMATS:
        del node["format"]  # a note, as the standard has it
    if node.get("not") == {} or node.get("not") is True:  # how generators of schemas write that nothing is allowed
        node.clear()
        node["enum"] = []
        return
    says_nothing = {
        "not": node.get("not") is False or node.get("not") == {"not": {}},
        "uniqueItems": node.get("uniqueItems") is False or node.get("maxItems") in (0, 1),
        "propertyNames": node.get("propertyNames") in (True, {}, {"type": "string"}),
        "if": "then" not in node and "else" not in node,
        "minContains": "contains" not in node,
        "maxContains": "contains" not in node,
        "dependentRequired": node.get("dependentRequired") == {},
        "dependentSchemas": node.get("dependentSchemas") == {},
        "dependencies": node.get("dependencies") == {},
        "unevaluatedProperties": node.get("unevaluatedProperties") in (True, {}),
        "unevaluatedItems": node.get("unevaluatedItems") in (True, {}),
    }
    for word in _UNBOUND & node.keys():
        if not says_nothing.get(word, False):
            raise unusable(f"{place}: {word} cannot be bound; leave it out")
        del node[word]
    _tidy_counts(node, place)
    _check_divisor(node, place)


def _n_optional(node: Node) -> int:
    properties, required = node.get("properties"), node.get("required")
    if not isinstance(properties, dict):
        return 0
    named = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    return len(properties.keys() - named)


def _tidy_counts(node: Node, place: str) -> None:
    """Names that the schema does not tell may come twice in an answer, and would be counted twice."""
    least, required = node.get("minProperties"), node.get("required")
    if isinstance(least, int) and not isinstance(least, bool):
        if least <= len(set(map(str, required))) if isinstance(required, list) else least <= 0:
            del node["minProperties"]
        elif least > 1:
            raise unusable(f"{place}: minProperties above 1 cannot be bound; name the properties in required")


def _check_divisor(node: Node, place: str) -> None:
    """Digit by digit, a state for each remainder; those of twos and fives are no matter."""
    divisor = node.get("multipleOf")
    if not isinstance(divisor, int | float) or isinstance(divisor, bool):
        return
    left = int(Decimal(repr(divisor)).scaleb(20)) if 0 < divisor < 1e9 else 0
    for factor in (2, 5):
        while left and left % factor == 0:
            left //= factor
    if left > MAX_DIVISOR or divisor >= 1e9:
        raise unusable(f"{place}: multipleOf {_shown(divisor)} cannot be bound; at most {MAX_DIVISOR}")


def _close(node: Node, tree: _Tree) -> None:
    properties, required = node.get("properties"), node.get("required")
    if not isinstance(properties, dict) or id(node) in tree.parts or _OPEN & node.keys():
        return
    if isinstance(required, list) and not all(isinstance(name, str) and name in properties for name in required):
        return
    node["additionalProperties"] = False


def _children(node: Node, place: str) -> Iterator[tuple[Node, str]]:
    for key in _MAPS:
        inner = node.get(key)
        if isinstance(inner, dict):
            yield from ((one, f"{place}/{key}/{name}") for name, one in inner.items() if isinstance(one, dict))
    for key in (*_LISTS, "items"):
        inner = node.get(key)
        if isinstance(inner, list):
            yield from ((one, f"{place}/{key}/{at}") for at, one in enumerate(inner) if isinstance(one, dict))
    for key in _SINGLE:
        inner = node.get(key)
        if isinstance(inner, dict):
            yield inner, f"{place}/{key}"


def _check_depth(value: object) -> None:
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        part, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _too_deep()
        if isinstance(part, list):
            waiting += ((one, depth + 1) for one in part)
        elif isinstance(part, Mapping):
            waiting += ((one, depth + 1) for one in part.values())


def _too_deep() -> BadRequest:
    return unusable(f"it is nested too deeply; at most {MAX_DEPTH} lists and objects may stand within each other")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
