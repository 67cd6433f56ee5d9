"""Fields of chat requests: what each becomes in a turn, and how what does not fit is told."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.flags.params import SamplingParams
from canister.server.doors.openai import fields
from canister.server.doors.openai.chat import ChatBody, turn_of
from canister.server.doors.openai.errors import DoorError
from canister.server.doors.openai.turn import Turn
from tests.server.doors.openai.views import view

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "g"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def turn(*flags: str, tokens_of: dict[str, list[int]] | None = None, **body: Any) -> Turn:
    """The turn of a chat body, for a model that was loaded with these flags."""
    sent = json.dumps({"messages": [USER], **body}).encode()
    return turn_of(fields.read(ChatBody, sent), view(*flags), tokens_of)


def refused(**body: Any) -> DoorError:
    with pytest.raises(DoorError) as told:
        turn(**body)
    assert (told.value.status, told.value.type) == (400, "invalid_request_error")
    return told.value


# -- sampling


def test_defaults_are_llama_cpps_and_those_of_the_models_flags() -> None:
    assert turn().sampling == SamplingParams()
    assert turn().max_tokens is None
    assert turn().seed is None
    loaded = ("--temp", "0.3", "--top-k", "7", "-n", "50", "--seed", "5", "--logit-bias", "3-1")
    assert turn(*loaded).sampling == SamplingParams(temperature=0.3, top_k=7, logit_bias=((3, -1.0),))
    assert (turn(*loaded).max_tokens, turn(*loaded).seed) == (50, 5)
    changed = turn(*loaded, top_k=9, max_tokens=3, seed=-1, temperature=None)
    assert (changed.sampling.temperature, changed.sampling.top_k) == (0.3, 9)
    assert (changed.max_tokens, changed.seed) == (3, None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"temperature": -1}, {"temperature": 0.0}),
        ({"temperature": 1e300}, {"temperature": 3.4028234663852886e38}),
        ({"top_k": -5}, {"top_k": 0}),
        ({"top_k": 2**40}, {"top_k": 2**31 - 1}),
        ({"top_p": 1.5}, {"top_p": 1.0}),
        ({"min_p": -0.1}, {"min_p": 0.0}),
        ({"xtc_probability": 2}, {"xtc_probability": 1.0}),
        ({"xtc_threshold": -2}, {"xtc_threshold": 0.0}),
        ({"mirostat": 7}, {"mirostat": 2}),
        ({"top_k": 3.0}, {"top_k": 3}),
        ({"samplers": ["top_k", "temperature"]}, {"samplers": ("top_k", "temperature")}),
        ({"samplers": "kt"}, {"samplers": ("top_k", "temperature")}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
        ({"dry_sequence_breakers": ["a", "b"]}, {"dry_sequence_breakers": ("a", "b")}),
    ],
)
def test_what_is_clamped_and_how_values_are_read(given: dict[str, Any], kept: dict[str, Any]) -> None:
    assert turn(**given).sampling == SamplingParams(**kept)


@pytest.mark.parametrize("name", sorted(set(fields.SamplingFields.model_fields) - {"logit_bias", "seed"}))
def test_every_field_of_sampling_reaches_its_parameter(name: str) -> None:
    """Given as the default of another one, it changes nothing else."""
    default = getattr(SamplingParams(), name)
    if isinstance(default, tuple):
        changed: object = ["top_k"] if name == "samplers" else ["x"]
    else:
        changed = (not default) if isinstance(default, bool) else (1 if default == 0 else default / 2)
        changed = int(changed) if isinstance(default, int) and not isinstance(default, bool) else changed
        if name == "dry_base":
            changed = 2.5
        if name in ("top_n_sigma", "adaptive_target", "dry_penalty_last_n"):
            changed = 1
    found = turn(**{name: changed}).sampling
    differing = [
        field for field in SamplingParams.__slots__ if getattr(found, field) != getattr(SamplingParams(), field)
    ]
    assert differing == [name]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": "1"}, "top_k"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"dry_base": 0.5}, "dry_base"),
        ({"dry_penalty_last_n": -2}, "dry_penalty_last_n"),
        ({"dry_allowed_length": -1}, "dry_allowed_length"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": [1]}, "dry_sequence_breakers[0]"),
        ({"adaptive_decay": 1}, "adaptive_decay"),
        ({"min_keep": -1}, "min_keep"),
        ({"typical_p": 1e39}, "typical_p"),
        ({"presence_penalty": [1]}, "presence_penalty"),
        ({"samplers": ["heat"]}, "samplers"),
        ({"samplers": 5}, "samplers"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"seed": 2**70}, "seed"),
        ({"seed": "lucky"}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 5}, "n"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"model": 5}, "model"),
        ({"cache_prompt": 0}, "cache_prompt"),
        ({"prompt_cache_key": "x" * 2000}, "prompt_cache_key"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking"),
    ],
)
def test_what_does_not_fit_is_told_with_its_field(given: dict[str, Any], param: str) -> None:
    error = refused(**given)
    assert error.param == param
    assert param.partition("[")[0] in str(error)


def test_null_is_absent_and_what_is_unknown_is_ignored() -> None:
    nulls = dict.fromkeys(ChatBody.model_fields.keys() - {"messages"})
    assert turn(**nulls, json_schema=None, wishes=[1], service_tier="auto") == turn()


def test_seeds_have_32_bits() -> None:
    assert [turn(seed=seed).seed for seed in (0, 7, 2**32 - 2, 2**32 + 7)] == [0, 7, 2**32 - 2, 7]
    assert [turn("--seed", "3", seed=seed).seed for seed in (-1, 2**32 - 1, None)] == [None, None, 3]


def test_lengths_go_by_the_newest_name() -> None:
    assert turn(max_tokens=3, max_completion_tokens=2, n_predict=1).max_tokens == 2
    assert turn(max_tokens=3, n_predict=1).max_tokens == 3
    assert turn(n_predict=1).max_tokens == 1
    assert turn("-n", "5", max_tokens=-1).max_tokens is None
    assert turn(max_tokens=0).max_tokens == 0


def test_stops() -> None:
    assert turn(stop="\n").stops == ("\n",)
    assert turn(stop=["b", "a", "b", ""]).stops == ("b", "a")
    assert refused(stop=["x"] * 257).param == "stop"
    assert refused(stop=["x" * 70_000]).param == "stop"


def test_biases_of_tokens_and_of_texts() -> None:
    assert turn(logit_bias={"5": 1, "6": False}).sampling.logit_bias == ((5, 1.0), (6, -math.inf))
    assert turn(logit_bias=[[5, -2.5]]).sampling.logit_bias == ((5, -2.5),)
    body = fields.read(ChatBody, b'{"logit_bias": {"no way": -1, "7": 2}}')
    assert body.bias_texts() == ["no way"]
    found = turn(logit_bias={"no way": -1, "7": 2}, tokens_of={"no way": [8, 9]}).sampling.logit_bias
    assert found == ((8, -1.0), (9, -1.0), (7, 2.0))
    assert turn("--logit-bias", "3-1", logit_bias={}).sampling.logit_bias == ()
    for wrong in ({"5": "much"}, {"5": True}, [5], [[5]], "5", {"": 1}, [[2048, 1]], [[-1, 1]], {"5": 1e39}):
        assert refused(logit_bias=wrong).param == "logit_bias", wrong


def test_texts_with_biases_are_few_since_each_may_be_many_tokens() -> None:
    texts = {f"text {number}": 1 for number in range(257)}
    assert "at most 256 texts" in str(refused(logit_bias=texts))
    texts.pop("text 0")
    assert len(fields.read(ChatBody, json.dumps({"logit_bias": texts}).encode()).bias_texts()) == 256


# -- formats


@pytest.mark.parametrize(
    ("body", "schema"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"type": "object"}),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, SCHEMA),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, {"type": "object"}),
        ({"json_schema": SCHEMA}, SCHEMA),
        ({"json_schema": {}}, {"type": "object"}),
        ({"json_schema": SCHEMA, "response_format": {"type": "text"}}, SCHEMA),
    ],
)
def test_formats(body: dict[str, Any], schema: object) -> None:
    assert turn(**body).output_schema == schema


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "schema": 5}}, "response_format.schema"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "response_format"),
        ({"response_format": {"type": "json_object"}, "json_schema": SCHEMA}, "response_format"),
        ({"json_schema": [], "grammar": ""}, "json_schema"),
        ({"json_schema": SCHEMA, "grammar": "root ::= x"}, "grammar"),
        ({"tools": [TOOL], "grammar": "root ::= x"}, "grammar"),
    ],
)
def test_formats_that_cannot_be(body: dict[str, Any], param: str) -> None:
    assert refused(**body).param == param


def test_probabilities() -> None:
    assert turn().n_logprobs is None
    assert turn(logprobs=False).n_logprobs is None
    assert turn(logprobs=True).n_logprobs == 0
    assert turn(logprobs=True, top_logprobs=20).n_logprobs == 20


def test_thoughts() -> None:
    assert (turn().thinks, turn().splits_thoughts, turn().reasoning_effort) == (None, True, None)
    none = turn(reasoning_effort="none")
    assert (none.thinks, none.reasoning_effort) == (False, None)
    assert turn(reasoning_effort="high").reasoning_effort == "high"
    assert turn(chat_template_kwargs={"enable_thinking": False, "x": [1]}).thinks is False
    assert turn(reasoning_format="none").splits_thoughts is False
    assert turn(reasoning_format="auto").splits_thoughts is True


def test_thoughts_as_the_model_was_loaded() -> None:
    assert [turn("--reasoning", word).thinks for word in ("on", "off", "auto")] == [True, False, None]
    assert turn("--reasoning", "off", chat_template_kwargs={"enable_thinking": True}).thinks is True
    assert turn("--reasoning", "on", reasoning_effort="none").thinks is False
    loaded = ("--reasoning-effort", "low", "--reasoning-format", "none", "--chat-template-kwargs", '{"a": 1, "b": 2}')
    assert (turn(*loaded).reasoning_effort, turn(*loaded).splits_thoughts) == ("low", False)
    assert turn(*loaded, reasoning_effort="high").reasoning_effort == "high"
    assert turn(*loaded, reasoning_format="auto").splits_thoughts is True
    assert turn(*loaded, chat_template_kwargs={"b": 3}).template_options == {"a": 1, "b": 3}


# -- messages


def test_messages_in_the_form_of_templates() -> None:
    said = [
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind"}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "bob"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "hm", "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    assert turn(messages=said).messages == (
        {"role": "system", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind"}]},
        {"role": "user", "content": "Hi", "name": "bob"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    )


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("Hi", "messages"),
        ([5], "messages[0]"),
        ([{"content": "Hi"}], "messages[0].role"),
        ([{"role": "boss", "content": "Hi"}], "messages[0].role"),
        ([USER, {"role": "user"}], "messages[1].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "smell"}]}], "messages[0].content[0].type"),
        ([{"role": "assistant"}, USER], "messages[0].content"),
        ([{"role": "assistant", "tool_calls": [{}]}, USER], "messages[0].tool_calls[0].function"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}, USER], "messages[0].tool_calls[0].function.name"),
        ([USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], "messages"),
        ([USER] * 10_001, "messages"),
    ],
)
def test_messages_that_are_none(messages: Any, param: str) -> None:
    assert refused(messages=messages).param == param


def test_images_are_told_in_the_words_that_clients_look_for() -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    assert str(refused(messages=image)) == "messages[0].content[0]: image input is not supported: send text"


def test_a_last_message_of_the_assistant_is_continued() -> None:
    own = [USER, {"role": "assistant", "content": "I am"}]
    assert (turn(messages=own).continues, turn(messages=own).add_generation_prompt) == (True, False)
    assert turn(messages=own, continue_final_message=True).continues
    assert not turn(messages=own, continue_final_message=False).continues
    assert (turn().continues, turn().add_generation_prompt) == (False, True)
    assert not turn(add_generation_prompt=False).add_generation_prompt
    both = refused(messages=own, continue_final_message=True, add_generation_prompt=True)
    assert both.param == "continue_final_message"
    assert refused(continue_final_message=True).param == "continue_final_message"
    assert refused(messages=[USER, {"role": "assistant", "content": "x", "tool_calls": [CALL]}]).param == "messages"


# -- tools


def test_tools_and_which_must_be_called() -> None:
    chosen = turn(tools=[TOOL, OTHER])
    assert (len(chosen.tools), chosen.tool_choice, chosen.tool_name) == (2, "auto", None)
    assert turn(tools=[TOOL], tool_choice="none").tool_choice == "none"
    assert turn(tools=[TOOL], tool_choice="required").tool_choice == "required"
    named = turn(tools=[TOOL, OTHER], tool_choice={"type": "function", "function": {"name": "g"}})
    assert (named.tool_choice, named.tool_name) == ("required", "g")
    some = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    allowed = turn(tools=[TOOL, OTHER], tool_choice={"type": "allowed_tools", "allowed_tools": some})
    assert ([tool["function"]["name"] for tool in allowed.tools], allowed.tool_choice) == (["g"], "required")  # type: ignore[index, call-overload]
    assert not turn(tools=[TOOL], parallel_tool_calls=False).parallel_tool_calls


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL] * 1001}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "f"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "h"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
    ],
)
def test_tools_that_are_none(body: dict[str, Any], param: str) -> None:
    assert refused(**body).param == param


# -- whatever comes

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted({*ChatBody.model_fields, "json_schema"})), ANYTHING, max_size=6))
def test_any_body_is_a_turn_or_a_400_that_names_a_field(body: dict[str, Any]) -> None:
    told = error_of(body)
    assert told is None or (told.status == 400 and told.param and len(str(told)) < 500)


def error_of(body: dict[str, Any]) -> DoorError | None:
    try:
        turn(**body)
    except DoorError as error:
        return error
    return None
