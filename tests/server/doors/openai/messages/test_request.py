"""Requests of Anthropic's Messages become requests in OpenAI's form."""

from __future__ import annotations

from typing import Any

import pytest

from canister.server.doors.openai.errors import DoorError
from canister.server.doors.openai.messages.request import chat_body, hides_thoughts

USER = {"role": "user", "content": "Hi"}


def made(**fields: Any) -> dict[str, Any]:
    return chat_body({"model": "m", "max_tokens": 5, "messages": [USER], **fields})


def test_a_plain_request() -> None:
    assert made(temperature=0.5, stream=True, metadata={"user_id": "u"}) == {
        "model": "m",
        "max_tokens": 5,
        "messages": [USER],
        "temperature": 0.5,
        "stream": True,
    }


def test_a_conversation_with_thoughts_tools_and_results() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}, {"type": "text", "text": "In Bern."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I ask.", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "Thanks."},
            ],
        },
        {"role": "assistant", "content": "It"},
    ]
    assert made(messages=messages, system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}])[
        "messages"
    ] == [
        {"role": "system", "content": "Be\nbrief"},
        {"role": "user", "content": "Weather?\nIn Bern."},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "I ask.",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
            ],
        },
        {"role": "user", "content": "Thanks."},
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "assistant", "content": "It"},
    ]


def test_results_alone_make_no_empty_message() -> None:
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}
    assert made(messages=[USER, call, result])["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "t", "content": ""},
    ]


def test_turns_of_one_side_are_one_turn() -> None:
    thought = {"type": "thinking", "thinking": "Hm", "signature": ""}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    messages = [
        USER,
        {"role": "user", "content": "there"},
        {"role": "assistant", "content": [thought]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes"}, call]},
    ]
    first, second = made(messages=messages)["messages"]
    assert first == {"role": "user", "content": "Hi\nthere"}
    assert (second["content"], second["reasoning_content"], len(second["tool_calls"])) == ("Yes", "Hm", 1)


def test_documents_and_search_results_are_text() -> None:
    blocks = [
        {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "body"}},
        {"type": "search_result", "title": "S", "source": "http://x", "content": [{"type": "text", "text": "found"}]},
    ]
    assert made(messages=[{"role": "user", "content": blocks}])["messages"] == [
        {"role": "user", "content": "T\nbody\nS\nhttp://x\nfound"}
    ]


def test_claude_codes_checksum_does_not_change_the_prompt() -> None:
    def system(digits: str) -> Any:
        header = f"x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={digits};"
        return made(system=[{"type": "text", "text": header}, {"type": "text", "text": "You are"}])["messages"][0]

    assert system("0a1b2") == system("fffff") == system("98765")
    assert "You are" in system("0a1b2")["content"]
    assert made(system="cch=01234;")["messages"][0]["content"] == "cch=fffff;"
    assert made(system="catch=01234;")["messages"][0]["content"] == "catch=01234;"


def test_tools() -> None:
    tools = [
        {"name": "f", "description": "does", "input_schema": {"type": "object"}},
        {"name": "bare", "type": "custom", "input_schema": {}},
        {"name": "web_search", "type": "web_search_20250305"},
    ]
    asked = made(tools=tools)
    assert asked["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "does", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "bare", "parameters": {}}},
    ]
    assert asked["parallel_tool_calls"] is True
    assert "tools" not in made(tools=[tools[2]])


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, {"tool_choice": "auto", "parallel_tool_calls": True}),
        ({"type": "any"}, {"tool_choice": "required", "parallel_tool_calls": True}),
        ({"type": "none"}, {"tool_choice": "none", "parallel_tool_calls": True}),
        (
            {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
        ),
    ],
)
def test_tool_choice(choice: dict[str, Any], wanted: dict[str, Any]) -> None:
    asked = made(tools=[{"name": "f", "input_schema": {}}], tool_choice=choice)
    assert {key: asked[key] for key in wanted} == wanted


def test_thinking_and_what_the_answer_is_like() -> None:
    assert made(thinking={"type": "enabled", "budget_tokens": 1024})["chat_template_kwargs"] == {
        "enable_thinking": True
    }
    assert made(thinking={"type": "disabled"})["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in made()
    schema = {"type": "object"}
    asked = made(output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}})
    assert asked["reasoning_effort"] == "low"
    assert asked["response_format"] == {"type": "json_schema", "json_schema": {"schema": schema}}
    assert made(output_format={"type": "json_schema", "schema": schema})["response_format"] == asked["response_format"]
    assert hides_thoughts({"thinking": {"type": "adaptive", "display": "omitted"}})
    assert not hides_thoughts({"thinking": {"type": "adaptive"}})


def test_stop_sequences_and_settings_of_llama_cpp() -> None:
    asked = made(stop_sequences=["END"], min_p=0.1, seed=3, n=4, logprobs=True, stop="x")
    assert (asked["stop"], asked["min_p"], asked["seed"]) == (["END"], 0.1, 3)
    assert "n" not in asked
    assert "logprobs" not in asked


def block(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [content]}]}


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"messages": "Hi"}, "messages", 'list of messages .given: "Hi"'),
        ({"messages": None}, "messages", "messages is missing: it is a list"),
        ({"messages": ["Hi"]}, "messages[0]", "object with role"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role", 'given: "bot"'),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "text or a list of blocks"),
        (block("x"), "messages[0].content[0]", "object with a type"),
        (block({"type": "text"}), "messages[0].content[0].text", "is a text"),
        (block({"type": "image", "source": {}}), "messages[0].content[0]", "image input is not supported"),
        (block({"type": "thinking", "thinking": "x"}), "messages[0].content[0].type", "not understood"),
        (block({"type": "document", "source": {"type": "base64"}}), "messages[0].content[0].source", "send its text"),
        (block({"type": "tool_result"}), "messages[0].content[0].tool_use_id", "is a text"),
        ({"system": 1}, "system", "text or a list"),
        ({"stop_sequences": "END"}, "stop_sequences", "list of texts"),
        ({"stop_sequences": [""]}, "stop_sequences", "not empty"),
        ({"tools": {}}, "tools", "list of tools"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema", "JSON schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name", "not empty"),
        ({"tool_choice": "auto"}, "tool_choice.type", "one of auto, any"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "name of a tool"),
        ({"thinking": {"type": "much"}}, "thinking.type", 'given: "much"'),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format", "json_schema"),
        ({"output_format": {"type": "json_schema"}}, "output_format", "json_schema"),
    ],
)
def test_what_is_wrong_is_told_by_field(fields: dict[str, Any], param: str, told: str) -> None:
    with pytest.raises(DoorError, match=told) as caught:
        made(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
