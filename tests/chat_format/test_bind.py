"""Tools bound by a grammar: what must be called is, what cannot be bound is named, and nothing passes unbound."""

from __future__ import annotations

import re

import pytest
from llguidance import LLMatcher

from canister.chat_format import form_of
from canister.errors import BadRequest
from tests.chat_format.speech import TOOLS, WEATHER, template, tool

HERMES = form_of(template("<tool_call>", "</tool_call>"))
QWEN3 = form_of(template("<tool_call>", "</tool_call>", "<think>", "</think>"))
CALLS_ITSELF = {"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}}
GENERIC = form_of("{{ messages }}")


def test_without_tools_and_schema_nothing_is_bound() -> None:
    binding = QWEN3.bind()
    assert (binding.lark, binding.triggers) == ("", ())


def test_tools_that_may_be_called_are_bound_from_their_mark_on() -> None:
    binding = HERMES.bind(TOOLS)
    assert binding.triggers == ("<tool_call>",)
    assert binding.lark.startswith("start: ")
    assert LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(binding.lark)) == ""


def test_a_mark_in_a_thought_binds_nothing() -> None:
    assert QWEN3.bind(TOOLS).quiet == (("<think>", "</think>"),)
    assert QWEN3.bind(TOOLS, prompt="<think>\n").quiet == (("", "</think>"), ("<think>", "</think>"))
    assert QWEN3.bind(TOOLS, choice="required").quiet == HERMES.bind(TOOLS).quiet == ()


@pytest.mark.parametrize("asked", [{"choice": "required"}, {"choice": "required", "name": "get_weather"}])
def test_tools_that_must_be_called_are_bound_from_the_first_token_on(asked: dict[str, str]) -> None:
    binding = HERMES.bind(TOOLS, choice="required", name=asked.get("name"))
    assert binding.lark
    assert binding.triggers == ()
    assert ("get_time" in binding.lark) is ("name" not in asked)


def test_none_leaves_the_tools_out_and_their_marks_are_text() -> None:
    binding = HERMES.bind(TOOLS, choice="none")
    assert (binding.lark, binding.tools) == ("", ())
    parser = binding.parser()
    assert [*parser.feed("<tool_call>"), *parser.end(False)] == [("<tool_call>",)]


def test_special_tokens_are_written_as_such() -> None:
    assert "<[7]>" in HERMES.bind(TOOLS, special_tokens={"<tool_call>": 7}).lark
    assert "<[7]>" not in HERMES.bind(TOOLS).lark


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        ([3], "tools[0]"),
        ([{"type": "function", "function": {}}], "tools[0]"),
        ([tool("a b")], "a b"),
        ([tool("")], "tools[0]"),
        ([tool("x" * 300)], "tools[0]"),
        ([WEATHER, WEATHER], "get_weather"),
        ([tool("f", {"type": "string"})], "string"),
        ([tool("f", 3)], "tools[0] (f)"),
        ([{"type": "web_search"}], "web_search"),
    ],
)
def test_what_cannot_be_a_function_is_named(tools: list[object], told: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(told)):
        HERMES.bind(tools)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"if": {"type": "string"}, "then": {"minLength": 1}}, "if"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "any"}, "any"),
    ],
)
def test_a_schema_that_cannot_be_bound_is_refused_with_its_function_and_reason(part: object, told: str) -> None:
    wrong = tool("wrong", {"type": "object", "properties": {"x": part}})
    with pytest.raises(BadRequest, match=r"'wrong'.*" + told):
        HERMES.bind([WEATHER, wrong])


def test_what_is_nothing_is_left_out_as_servers_of_tools_mean_it() -> None:
    nothing = {"not": {}}
    maybe = {"anyOf": [nothing, {"type": "string"}]}
    properties = {"x": nothing, "not": maybe, "y": nothing}
    told = {"type": "object", "properties": properties, "required": ["y"], "additionalProperties": nothing}
    lark = HERMES.bind([tool("f", told)]).lark
    assert '"properties": {"not": {"anyOf": [{"type": "string"}]}, "y": {}}' in lark
    assert '"additionalProperties": false' in lark


def test_a_property_may_have_the_name_of_a_schema_word() -> None:
    properties = {"not": {"type": "string"}, "format": {"type": "string", "format": "uint32"}}
    binding = HERMES.bind([tool("f", {"type": "object", "properties": properties})])
    assert '"not": {"type": "string"}, "format": {"type": "string"}' in binding.lark


def test_a_choice_without_its_tool_is_refused() -> None:
    with pytest.raises(BadRequest, match="no_such"):
        HERMES.bind(TOOLS, choice="required", name="no_such")
    with pytest.raises(BadRequest, match="no tools"):
        HERMES.bind([], choice="required")


def test_a_schema_that_the_answer_cannot_obey_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"JSON schema.*not"):
        HERMES.bind(schema={"not": {"type": "string"}})


def test_references_that_would_fill_the_stack_are_refused_and_not_followed() -> None:
    parts = {f"a{i}": {"type": "object", "properties": {"x": {"$ref": f"#/$defs/a{i + 1}"}}} for i in range(5000)}
    parts["a5000"] = {"type": "integer"}
    with pytest.raises(BadRequest, match=r"'f'.*within each other"):
        HERMES.bind([tool("f", {"type": "object", "properties": {"x": {"$ref": "#/$defs/a0"}}, "$defs": parts})])
    deep: dict[str, object] = {}
    for _ in range(2000):
        deep = {"type": "object", "properties": {"x": deep}}
    with pytest.raises(BadRequest, match=r"'f'.*nested too deeply"):
        HERMES.bind([tool("f", deep)])


def test_references_as_deep_as_is_allowed_are_bound_as_json_and_refused_where_each_is_written_out() -> None:
    parts = {f"a{i}": {"type": "object", "properties": {"x": {"$ref": f"#/$defs/a{i + 1}"}}} for i in range(900)}
    told = {"type": "object", "properties": {"x": {"$ref": "#/$defs/a0"}}, "$defs": {**parts, "a900": {"type": "null"}}}
    for marks in (("<tool_call>",), ("<tool_call>", "<function=", "<parameter=")):
        assert form_of(template(*marks)).bind([tool("f", told)]).lark
    with pytest.raises(BadRequest, match="deep"):
        form_of(template("<|tool_call>", "<channel|>")).bind([tool("f", told)])


@pytest.mark.parametrize(
    ("marks", "part", "told"),
    [
        (("<tool_call>", "<function=", "<parameter="), {"allOf": [{"required": ["x"]}]}, "allOf"),
        (("<|tool_call>", "<channel|>"), {"properties": {"x": {"type": "array", "minItems": 2}}}, "minItems"),
        (
            ("]<]minimax[>[",),
            {"properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": CALLS_ITSELF}},
            "calls itself",
        ),
        (("<tool_call>", "<function=", "<parameter="), {"properties": {"x": {"$ref": "#"}}}, "below"),
    ],
)
def test_what_a_format_has_no_way_to_write_is_refused_with_its_function(
    marks: tuple[str, ...], part: dict[str, object], told: str
) -> None:
    with pytest.raises(BadRequest, match=rf"'wrong'.*{told}"):
        form_of(template(*marks)).bind([WEATHER, tool("wrong", {"type": "object", **part})], choice="required")


def test_ids_of_calls_have_the_form_that_a_template_takes_back() -> None:
    mistral = form_of(template("[TOOL_CALLS]", "[ARGS]"))
    assert re.fullmatch("[a-zA-Z0-9]{9}", mistral.call_id("an answer, 0"))
    assert mistral.call_id("an answer, 0") == mistral.call_id("an answer, 0") != mistral.call_id("an answer, 1")
    assert HERMES.call_id("x").startswith("call_")


def test_a_template_that_says_nothing_of_tools_gets_words_for_it() -> None:
    assert "get_weather" in GENERIC.preamble(TOOLS)
    assert GENERIC.preamble(TOOLS, choice="none") == GENERIC.preamble([]) == HERMES.preamble(TOOLS) == ""


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
    ],
)
def test_a_thought_that_the_prompt_opens_is_gone_on_with(prompt: str, is_open: bool) -> None:
    binding = QWEN3.bind(prompt=prompt)
    assert binding.starts_in_thought is is_open
    parser = binding.parser()
    assert [*parser.feed("a</think>b"), *parser.end(False)][0] == (("a",) if is_open else ("a</think>b",))
