"""Every family: recognized by its template, its calls read and bound, and whole or cut anywhere the same."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import validate

from canister.chat_format import (
    BoundForm,
    Form,
    Text,
    Thought,
    ToolArguments,
    ToolBegin,
    ToolEnd,
    form_named,
    form_of,
    joined,
)
from canister.chat_format.detect import families
from tests.chat_format.cases import CASES, ORDERED, Case
from tests.chat_format.speech import TOOLS, calls, events_of, plain, read, said, tool
from tests.chat_format.walk import anything, ids, takes

WEATHER_CALL = ("get_weather", {"city": "Zürich"})
TIME_CALL = ("get_time", {})
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}  # type: ignore[index]
every_family = pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
# Where a call begins as any JSON does, or with a name alone, text before it makes it text.
BARE = frozenset(("llama-3", "llama-4", "xlam", "functionary-v3.2", "harmony"))


def _form(case: Case) -> Form:
    return form_of(case.template)


def _special(case: Case) -> tuple[str, ...]:
    return _form(case).family.special


def test_all_families_have_a_case() -> None:
    assert {family.name for family in families()} == {case.family for case in CASES}
    assert len(CASES) >= 40


@every_family
def test_a_family_is_recognized_by_the_marks_of_its_template(case: Case) -> None:
    assert _form(case).name == case.family


@every_family
def test_a_form_is_the_same_when_it_comes_back_from_json(case: Case) -> None:
    form = _form(case)
    name, thoughts = json.loads(json.dumps(form.told))
    assert form_named(name, thoughts) == form
    parser = form_named(name, thoughts).parser(TOOLS)
    assert joined([*parser.feed(case.one), *parser.end(False)]).calls


@every_family
def test_one_call_is_read(case: Case) -> None:
    assert said(_form(case), case.one) == ("", "", [WEATHER_CALL])


@every_family
def test_arguments_of_all_types_are_read(case: Case) -> None:
    assert said(_form(case), case.order) == ("", "", [("order", ORDERED)])


@pytest.mark.parametrize(
    ("written", "means"),
    [("True", True), ("[1, 'a']", [1, "a"]), ("{'a': None}", {"a": None}), ("1_000", "1_000"), ("0x10", "0x10")],
)
def test_a_value_of_any_type_is_what_it_looks_like(written: str, means: object) -> None:
    case = next(case for case in CASES if case.family == "qwen-coder")
    output = f"<tool_call>\n<function=f>\n<parameter=x>\n{written}\n</parameter>\n</function>\n</tool_call>"
    anything = tool("f", {"type": "object", "properties": {"x": {}}})
    assert said(_form(case), output, tools=[anything])[2] == [("f", {"x": means})]


@every_family
def test_several_calls_are_read_in_order(case: Case) -> None:
    if case.two:
        assert said(_form(case), case.two) == ("", "", [WEATHER_CALL, TIME_CALL])


@every_family
def test_text_before_a_call_is_text(case: Case) -> None:
    if case.family not in BARE:
        assert said(_form(case), "Let me look.\n" + case.one) == ("Let me look.", "", [WEATHER_CALL])


@every_family
def test_a_thought_before_a_call_is_a_thought(case: Case) -> None:
    if case.thought:
        assert said(_form(case), case.thought + case.one) == ("", "Hm.", [WEATHER_CALL])
        opened = _form(case).family.thoughts[0].begin
        rest = case.thought[case.thought.index(opened) + len(opened) :]
        assert said(_form(case), rest + case.one, prompt="assistant" + opened) == ("", "Hm.", [WEATHER_CALL])


@every_family
def test_thoughts_that_are_not_split_off_stay_in_the_text(case: Case) -> None:
    if case.thought and case.family != "harmony":
        parsed = read(_form(case).bind(TOOLS, splits_thoughts=False), case.thought + case.one)
        assert (parsed.text.strip(), parsed.thought, calls(parsed)) == (case.thought.strip(), "", [WEATHER_CALL])


@every_family
def test_a_plain_answer_is_text(case: Case) -> None:
    answer = "all\n" if case.family == "functionary-v3.2" else ""
    answer += "<|channel|>final<|message|>" if case.family == "harmony" else ""
    assert said(_form(case), answer + "2 < 3, and {x} [y] is no call.")[0] == "2 < 3, and {x} [y] is no call."


@every_family
def test_a_call_of_a_tool_that_nobody_offered_is_no_call(case: Case) -> None:
    assert said(_form(case), case.one.replace("get_weather", "get_money"))[2] == []


@every_family
@pytest.mark.parametrize("part", ["one", "order"])
def test_a_call_that_is_cut_is_no_call_and_shows_no_mark(case: Case, part: str) -> None:
    output = getattr(case, part)
    form = _form(case)
    binding = form.bind(TOOLS)
    whole = joined(events_of(binding, [output]))
    marks = [*form.family.special, "get_weather", "{"]
    for end in range(1, len(output)):
        parsed = joined(events_of(binding, [output[:end]], is_cut=True))
        assert parsed.calls in ((), whole.calls)
        if not form.family.bare:
            assert not [mark for mark in marks if mark in parsed.text], (output[:end], parsed.text)
    half = joined(events_of(binding, [output[: output.index("Zürich" if part == "one" else "02139")]], is_cut=True))
    assert half.calls == ()


@every_family
def test_what_must_be_called_can_be_said_and_nothing_else(case: Case) -> None:
    form = _form(case)
    for special in ((), _special(case)):
        lark = _required(form, special).lark
        for output in filter(None, (case.one, case.order, case.thought + case.one)):
            assert takes(lark, output, special), (output, lark)
        assert not takes(lark, "Hello.", special)
        assert not takes(lark, case.one.replace("get_weather", "get_money"), special)
        assert not takes(lark, case.one.replace("city", "town"), special)
        assert not takes(lark, case.order.replace("3", '"three"', 1), special)


@every_family
def test_a_named_function_is_the_only_one_that_can_be_called(case: Case) -> None:
    lark = _form(case).bind(TOOLS, choice="required", name="order", special_tokens={}).lark
    assert takes(lark, case.order)
    assert not takes(lark, case.one)


@every_family
def test_several_calls_are_made_only_where_they_are_allowed(case: Case) -> None:
    if case.two:
        form = _form(case)
        assert not takes(_required(form, (), many=False).lark, case.two)
        if case.family not in ("llama-3", "harmony"):  # their models make one call at a time
            assert takes(_required(form, (), many=True).lark, case.two), _required(form, (), many=True).lark


@every_family
def test_a_call_that_may_be_made_is_bound_from_its_mark_on(case: Case) -> None:
    form = _form(case)
    for special in ((), _special(case)):
        binding = form.bind(TOOLS, special_tokens=ids(special))
        for output in (case.one, case.order):
            places = [(output.index(mark), mark) for mark in binding.triggers if mark in output]
            assert places, binding.triggers
            assert takes(binding.lark, output[min(places)[0] :], special), (output, binding.lark)


@every_family
def test_whatever_the_grammar_allows_is_a_call_that_fits_its_schema(case: Case) -> None:
    form = _form(case)
    n_said = 0
    for special in ((), _special(case)):
        binding = _required(form, special)
        for seed in range(4):
            output = anything(binding.lark, seed, special)
            if output is None:
                continue
            n_said += 1
            parsed = read(binding, output)
            assert parsed.calls, output
            assert not parsed.is_broken, output
            for call in parsed.calls:
                validate(json.loads(call.arguments), SCHEMAS[call.name] or {"additionalProperties": False})
    assert n_said >= 3


@every_family
def test_an_answer_by_a_schema_may_follow_a_thought(case: Case) -> None:
    form = _form(case)
    binding = form.bind(schema={"type": "object", "properties": {"a": {"type": "integer"}}}, special_tokens={})
    before, after = form.family.answer
    answer = before + '{"a": 1}' + after
    assert takes(binding.lark, case.thought + answer)
    assert not takes(binding.lark, case.thought + before + '{"a": "x"}' + after)
    parsed = read(binding, case.thought + answer)
    assert (plain(parsed.text), parsed.calls) == ('{"a": 1}', ())


def _required(form: Form, special: tuple[str, ...], many: bool = True) -> BoundForm:
    return form.bind(TOOLS, choice="required", many=many, special_tokens=ids(special))


@st.composite
def _outputs(draw: st.DrawFn) -> tuple[Case, str]:
    """Pieces of what a family says, in any order: mostly wrong, as models are."""
    case = draw(st.sampled_from(CASES))
    form = _form(case)
    marks = [*form.family.special, *(mark for one in form.family.thoughts for mark in (one.begin, one.end))]
    whole = [case.one, case.two, case.order, case.thought]
    part = st.one_of(
        st.sampled_from(
            [*marks, *whole, '{"name": "get_weather"', "get_time", "}", "]", '"', "\\", ",", ":", "[", "\n", " "]
        ),
        st.text(max_size=6),
        st.tuples(st.sampled_from(whole), st.integers(0, 200), st.integers(0, 200)).map(
            lambda cut: cut[0][cut[1] :][: cut[2]]
        ),
    )
    return case, "".join(draw(st.lists(part, max_size=8)))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_outputs(), st.lists(st.integers(0, 400), max_size=12), st.booleans(), st.booleans(), st.booleans())
def test_whole_or_cut_anywhere_an_output_says_the_same(
    made: tuple[Case, str], cuts: list[int], is_cut: bool, has_opened: bool, splits: bool
) -> None:
    case, output = made
    form = _form(case)
    prompt = form.family.thoughts[0].begin if has_opened and form.family.thoughts else ""
    binding = BoundForm(form.family, _offered(), "", (), (), form.starts_in_thought(prompt), splits)
    places = sorted({min(cut, len(output)) for cut in cuts} | {0, len(output)})
    pieces = [output[a:b] for a, b in pairwise(places)]
    whole = events_of(binding, [output], is_cut)
    assert (
        joined(whole) == joined(events_of(binding, pieces, is_cut)) == joined(events_of(binding, list(output), is_cut))
    )
    is_open = False
    for event in whole:
        assert isinstance(event, ToolBegin) or not isinstance(event, ToolArguments | ToolEnd) or is_open
        is_open = isinstance(event, ToolBegin | ToolArguments)
        assert not isinstance(event, Text | Thought) or event.text
    for call in joined(whole).calls:
        assert isinstance(json.loads(call.arguments), dict)


def _offered() -> tuple:  # type: ignore[type-arg]
    from canister.chat_format.tools import tools_of

    return tools_of(TOOLS)
