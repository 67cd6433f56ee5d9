"""Instructor, unmodified: records out of answers, by tools and by schemas."""

from __future__ import annotations

import instructor
from cases import BASE, KEY, Weather, main
from openai import OpenAI

ASKED = {
    "model": "m",
    "messages": [{"role": "user", "content": "Who are you?"}],
    "response_model": Weather,
    "max_tokens": 300,
    "temperature": 0,
    "max_retries": 0,
}


def tools() -> None:
    client = instructor.from_openai(OpenAI(base_url=f"{BASE}/v1", api_key=KEY), mode=instructor.Mode.TOOLS)
    assert isinstance(client.create(**ASKED), Weather)  # type: ignore[call-overload]


def schema() -> None:
    client = instructor.from_openai(OpenAI(base_url=f"{BASE}/v1", api_key=KEY), mode=instructor.Mode.JSON_SCHEMA)
    assert isinstance(client.create(**ASKED), Weather)  # type: ignore[call-overload]


main(tools, schema)
