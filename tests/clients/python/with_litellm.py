"""LiteLLM, unmodified: it translates to and from many dialects."""

from __future__ import annotations

import json

import litellm
from cases import BASE, KEY, Weather, error_of, main

ASKED = {
    "model": "openai/m",
    "api_base": f"{BASE}/v1",
    "api_key": KEY,
    "messages": [{"role": "user", "content": "Who are you?"}],
    "temperature": 0,
    "max_retries": 0,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": Weather.model_json_schema()}}


def whole() -> None:
    answer = litellm.completion(**ASKED)
    assert "canister" in answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


def stream() -> None:
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ASKED, stream=True)]
    assert "canister" in "".join(pieces)


def tools() -> None:
    answer = litellm.completion(**ASKED, tools=[TOOL], tool_choice="required", max_tokens=300)
    Weather.model_validate_json(answer.choices[0].message.tool_calls[0].function.arguments)
    chunks = list(litellm.completion(**ASKED, tools=[TOOL], tool_choice="required", max_tokens=300, stream=True))
    built = litellm.stream_chunk_builder(chunks)
    Weather.model_validate_json(built.choices[0].message.tool_calls[0].function.arguments)


def schema() -> None:
    answer = litellm.completion(**ASKED, response_format=Weather, max_tokens=300)
    Weather.model_validate(json.loads(answer.choices[0].message.content))


def errors() -> None:
    too_long = {**ASKED, "messages": [{"role": "user", "content": "word " * 5000}]}
    error_of(lambda: litellm.completion(**too_long), litellm.ContextWindowExceededError)


def anthropic() -> None:
    answer = litellm.completion(**{**ASKED, "model": "anthropic/m", "api_base": BASE})
    assert "canister" in answer.choices[0].message.content


def ollama() -> None:
    answer = litellm.completion(**{**ASKED, "model": "ollama_chat/m", "api_base": BASE})
    assert "canister" in answer.choices[0].message.content


main(whole, stream, tools, schema, errors, anthropic, ollama)
