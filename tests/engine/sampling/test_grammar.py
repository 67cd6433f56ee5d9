"""Grammars and schemas that would end the process, or fill its memory, are refused; those that people use are not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from canister.engine.sampling.grammar import MAX_GRAMMAR_BYTES, MAX_GRAMMAR_GROUPS, check_grammar, check_schema
from canister.engine.sampling.samplers import grammar_of_schema
from canister.errors import BadRequest
from tests.engine.tiny_models import llama_model
from tests.fuzz.targets import NAME_OF_AN_EXCEPTION, refusing

# The parser itself, without our check before it.
PARSE = """
import sys
from pathlib import Path
from canister.engine import llama
from canister.engine.sampling import samplers
llama.start_backend()
if sys.argv[2] == "unchecked":
    samplers.check_grammar = lambda text: None
n = int(sys.argv[3])
model = llama.Model(Path(sys.argv[1]), "tiny")
try:
    samplers.Sampler.grammar(model, "root ::= " + "(" * n + '"a"' + ")" * n)
except llama.BadRequest as error:
    print("refused", str(error)[:100])
else:
    print("taken")
"""


@pytest.mark.parametrize(
    ("check", "n_groups", "said"),
    [("unchecked", 200_000, None), ("checked", 200_000, "refused"), ("checked", MAX_GRAMMAR_GROUPS, "taken")],
)
def test_nested_groups(check: str, n_groups: int, said: str | None, tmp_path: Path) -> None:
    """The first case shows what the check is for: the process that parses such a grammar is gone."""
    model = llama_model(tmp_path / "model.gguf", "q8_0")
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(model), check, str(n_groups)], capture_output=True, text=True, timeout=60
    )
    if said is None:
        assert done.returncode == -signal.SIGSEGV
    else:
        assert (done.returncode, done.stdout.split()[0]) == (0, said)


def test_sizes_of_grammars() -> None:
    check_grammar("root ::= " + '"a" ' * (MAX_GRAMMAR_BYTES // 4 - 3))
    for text in ("root ::= " + "é" * (MAX_GRAMMAR_BYTES // 2), "(" * (MAX_GRAMMAR_GROUPS + 1)):
        with pytest.raises(BadRequest, match="make it smaller"):
            check_grammar(text)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 10**9},
        {"type": "string", "minLength": 1e300},
        {"type": "array", "items": {"type": "string"}, "minItems": 10**30},
        {"type": "string", "pattern": "^a{100000000}$"},
        {"type": "string", "pattern": "^" + "(" * 9 + "a" + "{2000})" * 9 + "$"},
        {"type": "string", "pattern": "^a{," + "9" * 5000 + "}$"},
        {"anyOf": [{"type": "object", "properties": {"a": {"maxLength": 300_000}}}, {"maxLength": 300_000}]},
    ],
)
def test_schemas_that_count_too_far(schema: Any) -> None:
    with pytest.raises(BadRequest, match="come to more than"):
        grammar_of_schema(json.dumps(schema))


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"items":' * 400 + '{"type": "string"}' + "}" * 400, "nested too deeply"),
        ("\udcff", "Expecting value"),
        ('{"type": 5}', "Unrecognized schema"),
        ("[]", "it is [], not an object such as"),
        ("null", "it is null, not an object such as"),
        ("true", "it is true, not an object such as"),
        ('"\\ud800"', "it is "),
        ('{"$ref": "#"}', "nothing is fetched"),
        ('{"$ref": "http://127.0.0.1/x"}', '"http://127.0.0.1/x" is no place in the schema itself'),
        ('{"$ref": "https://127.0.0.1/x"}', "nothing is fetched"),
        ('{"$ref": 5}', "its $ref 5 is no place"),
        ('{"$ref": "#/a/b", "a": {}}', 'there is no "b"'),
        ('{"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}', "leads to itself"),
        ('{"$ref": "#/a", "a": true}', "leads to true, which is no schema"),
        ('{"properties": []}', "one of its parts is not what its keyword takes"),
        ('{"properties": {"a": 1}}', "one of its parts"),
        ('{"enum": 5}', "one of its parts"),
        ('{"pattern": 5, "type": "string"}', "one of its parts"),
        ('{"pattern": "a", "type": "string"}', "Pattern must start"),
        ('{"items": true, "minItems": "x"}', "one of its parts"),
        ('{"anyOf": 7}', "one of its parts"),
    ],
)
def test_what_is_no_schema(text: str, said: str) -> None:
    """Told in words for people: no name of an exception, and without asking anybody on the network."""
    with pytest.raises(BadRequest) as refused:
        grammar_of_schema(text)
    assert said in str(refused.value)
    assert not NAME_OF_AN_EXCEPTION.search(str(refused.value))
    str(refused.value).encode()


@pytest.mark.parametrize(
    "keyword", [*SCHEMA, "items", "enum", "const", "oneOf", "allOf", "pattern", "minItems", "$ref"]
)
@pytest.mark.parametrize("value", [None, True, 3, -1.5, "x", [], [1], [[]], {}, {"a": 1}, {"a": {"$ref": "#/type"}}])
def test_no_part_of_a_schema_makes_it_tell_of_python(keyword: str, value: Any) -> None:
    for schema in (SCHEMA | {keyword: value}, {keyword: value}, {"properties": {"a": {keyword: value}}}):
        with refusing(BadRequest):
            grammar_of_schema(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
        {"type": "object", "properties": {"name": {"type": "string", "maxLength": 2000}, "n": {"type": "integer"}}},
        {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 100},
        {"type": "string", "maxLength": float("nan")},
        {"enum": ["a", "b"]},
        {},
    ],
)
def test_schemas_that_people_use(schema: Any) -> None:
    check_schema(json.dumps(schema))
