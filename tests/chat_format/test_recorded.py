"""Outputs that models and engines left behind (canitoolcall): each must be read as its own file says it is right.

Whole, character by character, and cut at random, with the suite's own checks.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from canitoolcall.checks import run_checks
from canitoolcall.fixtures import Family, Fixture, load_families, load_fixtures
from canitoolcall.results import Observation, ParsedToolCall, ParseResult, Status

from canister.chat_format import form_of
from tests.chat_format.speech import events_of, joined, template

FAMILIES = load_families()
QWEN3 = template("<tool_call>", "</tool_call>", "<think>", "</think>")
TEMPLATES = {
    "Qwen/Qwen3-0.6B": QWEN3,
    "Qwen/Qwen3-4B-Instruct-2507": template("<tool_call>", "</tool_call>"),
    "Qwen/Qwen3-4B-Thinking-2507": QWEN3,
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
    assert len(FIXTURES) >= 37, counts


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
    binding = form.bind(fixture.tools, prompt=_prompt(fixture, family))
    parsed = joined(events_of(binding, pieces, "truncated" in fixture.tags))
    calls = tuple(ParsedToolCall(call.name, call.arguments) for call in parsed.calls)
    return ParseResult(parsed.text or None, parsed.thought or None, calls)


def _prompt(fixture: Fixture, family: Family) -> str:
    """The end of the prompt that the output followed."""
    if fixture.generation_prompt is not None:
        return fixture.generation_prompt
    usual = {model.repo: model.default_generation_prompt for model in family.reference_models}
    return usual.get(fixture.models[0]) or ""
