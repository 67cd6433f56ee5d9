"""What the recorded prompts are of: bodies of llama-server's `/apply-template`, by name."""

from __future__ import annotations

from typing import Any

Body = dict[str, Any]

SYSTEM = {"role": "system", "content": "You are a terse assistant.\n  Answer in metric units. "}
HELLO = {"role": "user", "content": "Hello, who are you?"}
WEATHER_PLEASE = {"role": "user", "content": "What is the weather in Bern and in Zürich?"}
THANKS = {"role": "user", "content": "Thanks! And tomorrow?"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "days": {"type": "integer", "description": "How many days ahead", "minimum": 0, "maximum": 7},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
            },
            "required": ["city"],
        },
    },
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": 'Finds pages; quotes <"exactly"> & more.',
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "Words"},
                "filters": {
                    "type": "object",
                    "description": "Narrows it down",
                    "properties": {"lang": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
                },
            },
            "required": ["query"],
        },
    },
}
BARE = {"type": "function", "function": {"name": "ping", "description": "", "parameters": {}}}


def called(name: str, arguments: str, call_id: str) -> Body:
    return {"type": "function", "id": call_id, "function": {"name": name, "arguments": arguments}}


def result(content: str, call_id: str, name: str) -> Body:
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": content}


BERN = called("get_weather", '{"city": "Bern", "days": 1}', "call00001")
ZURICH = called("get_weather", '{"city": "Zürich", "unit": "celsius"}', "call00002")
DEEP = called("search", '{"query": "a \\"b\\" <c> & é", "filters": {"lang": "de", "tags": ["x", "y"]}}', "call00003")
CALLS = {"role": "assistant", "content": None, "tool_calls": [BERN]}
BOTH = {"role": "assistant", "content": "I look it up.", "tool_calls": [BERN, ZURICH]}
SUNNY = result('{"sky": "sunny", "celsius": 21}', "call00001", "get_weather")
RAIN = result("rain until the evening", "call00002", "get_weather")
ANSWER = {"role": "assistant", "content": "Sunny in Bern, rain in Zürich."}
THOUGHT = {
    "role": "assistant",
    "content": "Sunny in Bern.",
    "reasoning_content": "The user asks about Bern.\nI know it.",
}
THOUGHT_CALLS = {**CALLS, "reasoning_content": "I need the tool for that."}

CONVERSATIONS: dict[str, Body] = {
    "one question": {"messages": [HELLO]},
    "system": {"messages": [SYSTEM, HELLO]},
    "turns": {"messages": [SYSTEM, HELLO, {"role": "assistant", "content": "I am a model."}, THANKS]},
    "developer": {"messages": [{**SYSTEM, "role": "developer"}, HELLO]},
    "not the model's turn": {"messages": [SYSTEM, HELLO, ANSWER, THANKS], "add_generation_prompt": False},
    "parts": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": " Two."}]},
        ]
    },
    "marks in texts": {"messages": [{"role": "user", "content": "  a < b & 'c' \"d\" {{ e }} 😀\n\n"}]},
    "tools": {"messages": [SYSTEM, WEATHER_PLEASE], "tools": [WEATHER, SEARCH]},
    "tools without system": {"messages": [WEATHER_PLEASE], "tools": [WEATHER]},
    "a tool without parameters": {"messages": [HELLO], "tools": [BARE]},
    "a call": {"messages": [SYSTEM, WEATHER_PLEASE, CALLS, SUNNY], "tools": [WEATHER, SEARCH]},
    "two calls": {"messages": [WEATHER_PLEASE, BOTH, SUNNY, RAIN, ANSWER, THANKS], "tools": [WEATHER, SEARCH]},
    "a call with deep arguments": {
        "messages": [
            WEATHER_PLEASE,
            {"role": "assistant", "content": "", "tool_calls": [DEEP]},
            result("nothing found", "call00003", "search"),
        ],
        "tools": [WEATHER, SEARCH],
    },
    "a call without tools now": {"messages": [WEATHER_PLEASE, CALLS, SUNNY, ANSWER, THANKS]},
    "thoughts": {"messages": [SYSTEM, WEATHER_PLEASE, THOUGHT, THANKS]},
    "thoughts and a call": {
        "messages": [WEATHER_PLEASE, THOUGHT_CALLS, SUNNY, THOUGHT, THANKS, THOUGHT_CALLS, SUNNY],
        "tools": [WEATHER],
    },
    "thoughts kept": {
        "messages": [WEATHER_PLEASE, THOUGHT, THANKS],
        "chat_template_kwargs": {"preserve_reasoning": True},
    },
    "no thinking": {"messages": [SYSTEM, HELLO], "chat_template_kwargs": {"enable_thinking": False}},
    "effort": {"messages": [SYSTEM, HELLO], "reasoning_effort": "high"},
    "continued": {"messages": [SYSTEM, HELLO, {"role": "assistant", "content": "I am "}]},
    "continued after thoughts": {"messages": [WEATHER_PLEASE, THOUGHT]},
    "continued in thoughts": {
        "messages": [HELLO, {"role": "assistant", "content": "", "reasoning_content": "They greet, so"}]
    },
}
