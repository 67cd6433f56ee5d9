"""Grammars and schemas that would end the process, or take too long, are refused; those that people use bind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.engine.llama import Model
from canister.engine.sampling import grammars as grammars_module
from canister.engine.sampling.binding import Binding
from canister.engine.sampling.grammars import MAX_GRAMMAR_BYTES, MAX_GRAMMAR_DEPTH, MAX_GRAMMAR_GROUPS, Grammars
from canister.engine.sampling.samplers import Candidates
from canister.errors import BadRequest
from canister.flags.params import SamplingParams
from canister.json_schema import MAX_OPTIONAL
from tests.engine.tiny_models import EOS, N_VOCAB, llama_model
from tests.fuzz.targets import NAME_OF_AN_EXCEPTION, refusing

# What llama.cpp and llguidance do with what we refuse before them.
PARSE = """
import sys
from pathlib import Path
from canister.engine import llama, llama_build
from canister.engine.sampling import samplers
llama_build.start_backend()
model = llama.Model(Path(sys.argv[1]), "tiny")
samplers.Sampler.grammar(model, "root ::= " + "(" * 200_000 + '"a"' + ")" * 200_000)
"""
NEST = """
import json
from canister.engine.sampling.llguidance import GrammarLimits, TokenTable
defs = {f"a{i}": {"items": {"$ref": f"#/$defs/a{i + 1}"}, "type": "array"} for i in range(20_000)}
table = TokenTable([b"end", *(bytes([i]) for i in range(256))], frozenset([0]), [0])
table.matcher("json_schema", json.dumps({"$defs": {**defs, "a20000": {}}, "$ref": "#/$defs/a0"}), GrammarLimits())
"""


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> Model:
    return Model(model_path("q8_0"), "tiny")


@pytest.fixture
def bind(model: Model) -> Callable[..., Binding]:
    """What an answer with these settings is bound to."""

    def bound(**changes: Any) -> Binding:
        binding = asyncio.run(Grammars(lambda: model).bind(replace(SamplingParams(), **changes)))
        assert binding is not None
        return binding

    return bound


Bind = Callable[..., Binding]


def takes(binding: Binding, text: str, *, ends: bool = True) -> bool:
    """Does it take this text, and may it end there?"""
    for token in tokens_of(text):
        if not binding.fits(token):
            return False
        binding.accept(token)
    return binding.fits(EOS) or not ends


def tokens_of(text: str) -> list[int]:
    return [3 + byte for byte in text.encode()]


@pytest.mark.parametrize("program", [PARSE, NEST])
def test_what_the_bounds_are_for(program: str, tmp_path: Path) -> None:
    model = llama_model(tmp_path / "model.gguf", "q8_0")
    done = subprocess.run([sys.executable, "-c", program, str(model)], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGSEGV


def test_schemas_that_would_fill_the_stack(bind: Bind) -> None:
    def chain(n: int) -> str:
        defs: dict[str, Any] = {f"a{i}": {"items": {"$ref": f"#/$defs/a{i + 1}"}, "type": "array"} for i in range(n)}
        return json.dumps({"$defs": {**defs, f"a{n}": {"type": "null"}}, "$ref": "#/$defs/a0"})

    assert takes(bind(json_schema=chain(900)), "[[[]]]")
    with pytest.raises(BadRequest, match="more than 2000 schemas within each other"):
        bind(json_schema=chain(20_000))
    deep = '{"items":' * 90 + '{"type": "string"}' + "}" * 90
    assert takes(bind(json_schema=deep), "[[]]")


def test_sizes_of_grammars(bind: Bind) -> None:
    bind(grammar="root ::= " + '"a" ' * (MAX_GRAMMAR_BYTES // 4 - 3))
    bind(grammar="root ::= " + "(" * MAX_GRAMMAR_DEPTH + '"a"' + ")" * MAX_GRAMMAR_DEPTH)
    for text in (
        "root ::= " + "é" * (MAX_GRAMMAR_BYTES // 2),
        "root ::= " + '("a")' * (MAX_GRAMMAR_GROUPS + 1),
        "root ::= " + "(" * (MAX_GRAMMAR_DEPTH + 1) + '"a"' + ")" * (MAX_GRAMMAR_DEPTH + 1),
    ):
        with pytest.raises(BadRequest, match="within each other; at most"):
            bind(grammar=text)


TWO_WAYS = 'root ::= "b" s\ns ::= "a" s t | "a" s u | "a"\nt ::= "t" | "a"\nu ::= "u" | "a"'


@pytest.mark.parametrize("grammar", ['root ::= "b" ' + '"a"? ' * 600, TWO_WAYS])
def test_a_grammar_that_has_too_many_ways_is_left_where_they_begin(bind: Bind, grammar: str) -> None:
    """llama.cpp would think about the next token for minutes, and nobody else would have a turn meanwhile."""
    binding = bind(grammar=grammar)
    with pytest.raises(BadRequest, match="followed any further: there are too many ways"):
        _ask_all(binding, tokens_of("b" + "a" * 100))


def _ask_all(binding: Binding, text: list[int]) -> None:
    """What may follow behind each of these tokens?"""
    candidates = Candidates(N_VOCAB)
    for token in text:
        binding.accept(token)
        candidates.fill(np.zeros(N_VOCAB, np.float32))
        binding.restrict(candidates, ())


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + '"a"? ' * 600,  # few enough to be tried
        "root ::= " + '"a"? ' * 50_000,
        "root ::= " + "x " * 60_000 + '\nx ::= "a"?',
        "root ::= " + "x " * 1000 + "\nx ::= " + '("b" | "a")? ' * 1000,
    ],
)
def test_a_grammar_that_begins_with_too_many_ways(bind: Bind, grammar: str) -> None:
    with pytest.raises(BadRequest, match=r"cannot be used: there are too many ways .* make it simpler"):
        bind(grammar=grammar)


def test_many_in_a_row_that_may_be_left_out(bind: Bind) -> None:
    assert takes(bind(grammar='root ::= "a"{0,2000} "b"'), "a" * 1999 + "b")


@pytest.mark.parametrize("grammar", ["root ::= (", "root ::= x", 'foo ::= "a"', 'root ::= root "a"'])
def test_grammars_that_do_not_parse(bind: Bind, grammar: str) -> None:
    with pytest.raises(BadRequest, match=r"The grammar cannot be used: .*; it takes a rule root"):
        bind(grammar=grammar)


@pytest.mark.parametrize("lark", ["start: (", "start: x", "start: /(/", "start: <nope>", 'a: "b"', "start: \0"])
def test_lark_that_does_not_parse(bind: Bind, lark: str) -> None:
    with pytest.raises(BadRequest, match="The grammar cannot be used"):
        bind(lark=lark)


def test_one_of_them(bind: Bind) -> None:
    with pytest.raises(BadRequest, match="not to both"):
        bind(grammar='root ::= "a"', json_schema="{}")


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" ", "Expecting value"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"items":' * 400 + '{"type": "string"}' + "}" * 400, "nested too deeply"),
        ("\udcff", "Expecting value"),
        ('{"maxLength": NaN}', "NaN is not JSON"),
        ('{"type": 5}', "type must be a string or array"),
        ('{"type": "nonsense"}', "Invalid type: nonsense"),
        ("[]", "it is [], not an object such as"),
        ("null", "it is null, not an object such as"),
        ("false", "schema is false"),
        ('"\\ud800"', "it is "),
        ('{"$ref": "http://127.0.0.1/x"}', '"http://127.0.0.1/x" is no place in the schema itself'),
        ('{"$ref": "https://127.0.0.1/x"}', "nothing is fetched"),
        ('{"$ref": 5}', "$ref 5 is no place"),
        ('{"$ref": "#/a/b", "a": {}}', 'there is no "b"'),
        ('{"$ref": "#"}', "leads to itself"),
        (f'{{"$ref": "#/anyOf/{"9" * 5000}", "anyOf": [true]}}', "leads nowhere"),
        ('{"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}', "leads to itself"),
        ('{"$ref": "#/a", "a": 7}', "leads to 7, which is no schema"),
        ('{"properties": []}', "properties"),
        ('{"properties": {"a": 1}}', "schema must be an object or boolean"),
        ('{"enum": 5}', "enum must be an array"),
        ('{"enum": []}', "Unsatisfiable"),
        ('{"pattern": 5, "type": "string"}', "pattern"),
        ('{"pattern": "(?=a)b", "type": "string"}', "regex parse error"),
        ('{"pattern": "^(", "type": "string"}', "regex parse error"),
        ('{"items": true, "minItems": "x"}', "minItems"),
        ('{"minItems": 1000000000000000000000000000000}', "minItems"),
        ('{"anyOf": 7}', "anyOf must be an array"),
        ('{"minimum": 5, "maximum": 4, "type": "integer"}', "minimum (5) is greater than maximum (4)"),
        ('{"type": "array", "items": {"type": "null", "uniqueItems": true}}', "#/items: uniqueItems cannot be bound"),
        ('{"not": {"type": "string"}}', "#: not cannot be bound"),
        ('{"if": {}, "then": {}}', "#: if cannot be bound"),
        ('{"properties": {"a/b": {"contains": {}}}}', "#/properties/a/b: contains cannot be bound"),
        ('{"dependentRequired": {"a": ["b"]}}', "dependentRequired cannot be bound"),
        ('{"type": "object", "propertyNames": {"maxLength": 3}}', "propertyNames cannot be bound"),
        ('{"type": "object", "unevaluatedProperties": false}', "unevaluatedProperties cannot be bound"),
        ('{"type": "object", "minProperties": 2}', "minProperties above 1 cannot be bound"),
        ('{"type": "object", "x-guidance": {"lenient": true}, "uniqueItems": true}', "uniqueItems cannot be bound"),
        ('{"items": {"$id": "http://a/b"}}', "$id of a part cannot be bound"),
        ('{"oneOf": [{"type": "string"}, {"maxLength": 3}]}', "oneOf"),
        ('{"multipleOf": 99991, "type": "integer"}', "multipleOf 99991 cannot be bound"),
        ('{"multipleOf": 0.99991, "type": "number"}', "multipleOf 0.99991 cannot be bound"),
        ('{"multipleOf": 1e300, "type": "integer"}', "multipleOf 1e+300 cannot be bound"),
        ('{"pattern": "^(a{900}|b{900}){900}$", "type": "string", "maxLength": 5, "minLength": 6}', "cannot be used"),
    ],
)
def test_what_is_no_schema(bind: Bind, text: str, said: str) -> None:
    """Told in words for people: which word it is, no name of an exception, and nobody on the network is asked."""
    with pytest.raises(BadRequest) as refused:
        bind(json_schema=text)
    assert said in str(refused.value)
    assert str(refused.value).startswith("The JSON schema cannot be used: ")
    assert not NAME_OF_AN_EXCEPTION.search(str(refused.value))
    str(refused.value).encode()


@pytest.mark.parametrize(
    "keyword", [*SCHEMA, "items", "enum", "const", "oneOf", "allOf", "pattern", "minItems", "$ref", "not", "format"]
)
@pytest.mark.parametrize("value", [None, True, 3, -1.5, "x", [], [1], [[]], {}, {"a": 1}, {"a": {"$ref": "#/type"}}])
def test_no_part_of_a_schema_makes_it_tell_of_python(bind: Bind, keyword: str, value: Any) -> None:
    for schema in (SCHEMA | {keyword: value}, {keyword: value}, {"properties": {"a": {keyword: value}}}):
        with refusing(BadRequest):
            bind(json_schema=json.dumps(schema))


UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
NODE = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}


@pytest.mark.parametrize(
    ("schema", "taken", "refused"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 9}, ["1", "9"], ["-0", "0", "10", "1.5"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}, ["0.1", "1.5"], ["0", "1.6", "-1"]),
        ({"type": "integer", "multipleOf": 7}, ["14", "0"], ["15"]),
        ({"type": "integer", "multipleOf": 64000000}, ["128000000"], ["1"]),
        ({"type": "number", "multipleOf": 0.01}, ["1.25", "3"], ["1.255"]),
        ({"type": "string", "pattern": UUID}, ['"01234567-89ab-cdef-0123-456789abcdef"'], ['"x"']),
        ({"type": "string", "maxLength": 3}, ['"äöü"', '""'], ['"abcd"']),
        ({"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]"]),
        ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ['"b"']),
        ({"const": {"a": [1]}}, ['{"a": [1]}'], ['{"a": [2]}']),
        ({}, ["1", '{"x": [true]}'], ["x"]),
        (True, ["1"], ["x"]),
        (SCHEMA, ['{"a": "x"}', '{"a":"x"}', '{\n  "a": "x"\n}'], ['{"a": "x", "b": 1}', "{}", " {}"]),
        ({**SCHEMA, "additionalProperties": True}, ['{"a": "x", "b": 1}'], []),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, ['{"b": 1}', '{"a": 2, "b": 1}'], ["{}"]),
        ({"type": "object", "properties": {"a": {"not": {}}, "b": {}}}, ['{"b": 1}', "{}"], ['{"a": 1}']),
        ({"not": False, "type": "null"}, ["null"], []),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, ["[1]"], ["[1, 1]"]),
        ({"type": "string", "format": "binary"}, ['"x"'], ["1"]),
        ({"type": "string", "format": "date"}, ['"2026-11-30"'], ['"x"']),
        ({"type": "object", "minProperties": 1}, ['{"a": 1}'], ["{}"]),
        ({**SCHEMA, "minProperties": 1, "deprecated": True, "$id": "http://a/b"}, ['{"a": "x"}'], ["{}"]),
        (
            {
                "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
                "$defs": {
                    "a": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                    "b": {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
                },
            },
            ['{"a": 1, "b": 2}'],
            ['{"a": 1}', '{"b": 2}'],
        ),
        ({"$defs": {"node": NODE}, "$ref": "#/$defs/node"}, ['{"next": {"next": null}}', "{}"], ['{"next": 1}']),
        ({"properties": {"a": {"$ref": "#"}}, "type": "object"}, ['{"a": {"a": {}}}'], ['{"a": 1}']),
        (
            {"components": {"schemas": {"A b": {"type": "integer"}}}, "$ref": "#/components/schemas/A%20b"},
            ["12"],
            ['"x"'],
        ),
        (
            {
                "oneOf": [
                    {"type": "object", "properties": {"t": {"const": "a"}, "n": {}}, "required": ["t", "n"]},
                    {"type": "object", "properties": {"t": {"const": "b"}}, "required": ["t"]},
                ]
            },
            ['{"t": "a", "n": 1}', '{"t": "b"}'],
            ['{"t": "a"}', '{"t": "c"}'],
        ),
    ],
)
def test_schemas_that_people_use(bind: Bind, schema: Any, taken: list[str], refused: list[str]) -> None:
    binding = bind(json_schema=json.dumps(schema))
    for text in taken:
        assert takes(binding.begun(), text), text
    for text in refused:
        assert not takes(binding.begun(), text), text


def test_what_would_cost_too_much_later_is_refused_at_once(bind: Bind) -> None:
    """One of thousands of properties may come next, or the text may have been read in thousands of ways."""

    def optional(n: int) -> dict[str, Any]:
        return {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(n)}}

    assert takes(bind(json_schema=json.dumps(optional(1000))), '{"p7": "x", "p999": "y"}')
    ways = [{"anyOf": [{"properties": {f"p{at}": {"const": value}}} for value in range(2)]} for at in range(8)]
    with pytest.raises(BadRequest, match="Current row has"):
        bind(json_schema=json.dumps({"type": "object", "allOf": ways}))


def test_objects_with_too_many_optional_properties_are_refused_before_they_are_read(bind: Bind) -> None:
    def of(n: int, first: str = "p", n_required: int = 0) -> dict[str, Any]:
        names = [f"{first}{at}" for at in range(n)]
        return {"type": "object", "properties": {name: {"type": "null"} for name in names}} | (
            {"required": names[:n_required]} if n_required else {}
        )

    few = of(MAX_OPTIONAL + 500, n_required=500)
    assert takes(bind(json_schema=json.dumps(of(MAX_OPTIONAL))), '{"p7": null}')
    assert takes(bind(json_schema=json.dumps(few)), '{"p0": null', ends=False)
    for schema in (
        of(MAX_OPTIONAL + 1),
        {"type": "array", "items": of(8000, n_required=1000)},
        {"anyOf": [of(MAX_OPTIONAL // 2, "a"), of(MAX_OPTIONAL // 2, "b"), of(2, "c")]},
        {"$defs": {name: of(500, name) for name in "abc"}, "anyOf": [{"$ref": f"#/$defs/{name}"} for name in "abc"]},
    ):
        with pytest.raises(BadRequest, match="optional properties; at most"):
            bind(json_schema=json.dumps(schema))


def test_whitespace_ends(bind: Bind) -> None:
    binding = bind(json_schema=json.dumps(SCHEMA))
    assert takes(binding.begun(), '{\n\n    "a"', ends=False)
    assert not takes(binding.begun(), "{\n\n\n", ends=False)
    assert not takes(binding.begun(), "{" + " " * 30, ends=False)


def test_the_end_of_a_grammar_is_the_end_of_the_answer(bind: Bind) -> None:
    for binding in (bind(lark='start: "ab"'), bind(grammar='root ::= "ab"')):
        assert not binding.fits(EOS)
        assert takes(binding, "ab")
        assert [token for token in range(N_VOCAB) if binding.fits(token)] == [EOS]
        binding.accept(EOS)
        binding.accept(3)  # not of this grammar: it begins anew
        assert takes(binding, "ab")


@given(st.lists(st.sampled_from([*(3 + byte for byte in b"ab;"), EOS]), max_size=40))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_replay_is_one_after_the_other(model: Model, bind: Bind, tokens: list[int]) -> None:
    """Ends, what comes behind them, and tokens of another grammar included."""
    for what in ({"lark": 'start: "a"+ ";"?'}, {"grammar": 'root ::= "a"+ ";"?'}):
        at_once, one_by_one = bind(**what), bind(**what)
        at_once.replay(tokens)
        for token in tokens:
            one_by_one.accept(token)
        fitting = [[token for token in range(N_VOCAB) if binding.fits(token)] for binding in (at_once, one_by_one)]
        assert fitting[0] == fitting[1]


def test_grammars_are_read_beside_the_loop(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    for name in ("_read_gbnf", "_read_guided", "_table_of"):
        real = getattr(grammars_module, name)

        def noting(*args: Any, real: Callable[..., Any] = real) -> Any:
            threads.append(threading.current_thread())
            return real(*args)

        monkeypatch.setattr(grammars_module, name, noting)

    async def read() -> None:
        grammars = Grammars(lambda: model)
        await grammars.bind(SamplingParams(json_schema="{}"))
        await grammars.bind(SamplingParams(grammar='root ::= "a"'))

    asyncio.run(read())
    assert len(threads) == 3
    assert threading.current_thread() not in threads


def test_a_grammar_is_read_once(model: Model) -> None:
    grammars = Grammars(lambda: model)

    async def both() -> None:
        schema = SamplingParams(json_schema=json.dumps(SCHEMA))
        await asyncio.gather(*(grammars.bind(schema) for _ in range(5)))
        assert len(grammars._known) == 1
        for n in range(40):
            await grammars.bind(SamplingParams(grammar=f'root ::= "{n}"'))
        assert len(grammars._known) == 32
        with pytest.raises(BadRequest):
            await grammars.bind(SamplingParams(lark="start: ("))
        assert len(grammars._known) == 31  # what cannot be used is not kept
        for n in range(8):
            await grammars.bind(SamplingParams(grammar=f'root ::= "{n}"' + "\n" * 250_000))
        assert len(grammars._known) == 4

    asyncio.run(both())
