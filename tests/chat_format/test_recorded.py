"""Outputs that models and engines left behind (canitoolcall): each must be read as its own file says it is right.

Whole, character by character, and cut at random, with the suite's own checks.
"""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from canitoolcall.checks import run_checks
from canitoolcall.fixtures import Family, Fixture, load_families, load_fixtures
from canitoolcall.results import Observation, ParsedToolCall, ParseResult, Status

from canister.chat_format import form_of
from tests.chat_format.speech import joined, template, told_by

FAMILIES = load_families()
QWEN3 = template("<tool_call>", "</tool_call>", "<think>", "</think>")
QWEN_CODER = template("<tool_call>", "<function=", "<parameter=")
QWEN_35 = template("<tool_call>", "<function=", "<parameter=", "<think>", "</think>")
DEEPSEEK = template("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "<think>", "</think>")
DSML = template("<｜DSML｜invoke", "<think>", "</think>")
GLM = template("<tool_call>", "<arg_key>", "<arg_value>", "<think>", "</think>")
MISTRAL = template("[TOOL_CALLS]", "[ARGS]")
MAGISTRAL = template("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]")
TEMPLATES = {
    "Qwen/Qwen3-0.6B": QWEN3,
    "Qwen/Qwen3-4B-Instruct-2507": template("<tool_call>", "</tool_call>"),
    "Qwen/Qwen3-4B-Thinking-2507": QWEN3,
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": QWEN_CODER,
    "Qwen/Qwen3-Coder-Next": QWEN_CODER,
    "Qwen/Qwen3.5-9B": QWEN_35,
    "Qwen/Qwen3.8-27B": QWEN_35,
    "deepseek-ai/DeepSeek-V3-0324": DEEPSEEK + template("```json"),
    "deepseek-ai/DeepSeek-V3.1": DEEPSEEK,
    "deepseek-ai/DeepSeek-V3.2": DSML + template("<｜DSML｜function_calls>"),
    "deepseek-ai/DeepSeek-V4-Flash": DSML + template("<｜DSML｜tool_calls>"),
    "deepseek-ai/DeepSeek-V4.1-Flash": DSML + template("<｜DSML｜ calls>"),
    "google/gemma-4-31B-it": template("<|tool_call>", "<channel|>"),
    "zai-org/GLM-4.5": GLM + template("</arg_key>\\n<arg_value>"),
    "zai-org/GLM-4.7": GLM,
    "zai-org/GLM-5.3": GLM,
    "openai/gpt-oss-20b": template("<|channel|>", "<|message|>"),
    "moonshotai/Kimi-K2-Instruct-0905": template("<|tool_call_begin|>"),
    "moonshotai/Kimi-K2.6": template("<|tool_call_begin|>", "<think>", "</think>"),
    "moonshotai/Kimi-K3": template("<|open|>", "<|close|>", "<|sep|>"),
    "meta-llama/Llama-3.3-70B-Instruct": template("<|start_header_id|>ipython", "parameters", "<|python_tag|>"),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": template("<|header_start|>ipython"),
    "mistralai/Mistral-7B-Instruct-v0.3": template("[TOOL_CALLS]"),
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": MISTRAL,
    "mistralai/Devstral-Small-2507": MISTRAL,
    "mistralai/Ministral-3-14B-Instruct-2512": MISTRAL,
    "mistralai/Ministral-3-14B-Reasoning-2512": MAGISTRAL,
    "mistralai/Magistral-Small-2509": MAGISTRAL,
    "mistralai/Magistral-Small-2506": template("[TOOL_CALLS]", "<think>", "</think>"),
}
FIXTURES = [fixture for fixture in load_fixtures() if fixture.models[0] in TEMPLATES]


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.id)
def test_a_recorded_output_is_read_as_it_was_meant(fixture: Fixture) -> None:
    family = FAMILIES[fixture.family]
    rows = run_checks(fixture, family, _observed(fixture, family))
    wrong = [row for row in rows if row.status not in (Status.PASS, Status.SOFT_PASS)]
    assert not wrong, "\n".join(f"{row.check} {row.strategy}: {row.detail}" for row in wrong)


def test_all_families_of_the_suite_are_read() -> None:
    counts = Counter(fixture.family for fixture in FIXTURES)
    assert set(counts) == set(FAMILIES)
    assert len(FIXTURES) == len(load_fixtures()) == 469, counts


def test_tools_of_the_suite_can_be_bound_in_their_models_formats() -> None:
    told = {(fixture.models[0], json.dumps(fixture.tools)) for fixture in FIXTURES}
    for model, tools in sorted(told):
        assert form_of(TEMPLATES[model]).bind(json.loads(tools), choice="required" if tools != "[]" else "auto")


def _observed(fixture: Fixture, family: Family) -> Observation:
    output = fixture.raw_output
    streams = {"characters": _parsed(fixture, family, list(output))}
    for seed in range(5):
        dice = random.Random(seed)
        cuts = sorted(dice.sample(range(1, len(output)), min(len(output) - 1, len(output) // 4 + 1)))
        pieces = [output[a:b] for a, b in zip([0, *cuts], [*cuts, len(output)], strict=True)]
        streams[f"cut {seed}"] = _parsed(fixture, family, pieces)
    return Observation(_parsed(fixture, family, [output]), streams)


def _parsed(fixture: Fixture, family: Family, pieces: list[str]) -> ParseResult:
    form = form_of(TEMPLATES[fixture.models[0]])
    opened = form.starts_in_thought(_prompt(fixture, family))
    parser = form.parser(fixture.tools, starts_in_thought=opened)
    parsed = joined(told_by(parser, pieces, "truncated" in fixture.tags))
    calls = tuple(ParsedToolCall(call.name, call.arguments) for call in parsed.calls)
    return ParseResult(parsed.text or None, parsed.thought or None, calls)


def _prompt(fixture: Fixture, family: Family) -> str:
    """The end of the prompt that the output followed."""
    if fixture.generation_prompt is not None:
        return fixture.generation_prompt
    usual = {model.repo: model.default_generation_prompt for model in family.reference_models}
    return usual.get(fixture.models[0]) or ""
