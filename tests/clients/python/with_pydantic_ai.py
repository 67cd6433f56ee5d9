"""Pydantic AI, unmodified."""

from __future__ import annotations

import asyncio

from cases import BASE, KEY, Weather, error_of, main
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=f"{BASE}/v1", api_key=KEY)
model = OpenAIChatModel("m", provider=provider)
SETTINGS = {"temperature": 0.0, "max_tokens": 300}


def whole() -> None:
    result = Agent(model).run_sync("Who are you?", model_settings=SETTINGS)  # type: ignore[arg-type]
    assert "canister" in result.output
    assert result.usage.output_tokens > 0


def responses() -> None:
    agent = Agent(OpenAIResponsesModel("m", provider=provider))
    assert "canister" in agent.run_sync("Who are you?", model_settings=SETTINGS).output  # type: ignore[arg-type]


def stream() -> None:
    async def read() -> str:
        async with Agent(model).run_stream("Who are you?", model_settings=SETTINGS) as result:  # type: ignore[arg-type]
            return "".join([piece async for piece in result.stream_text(delta=True)])

    assert "canister" in asyncio.run(read())


def tools() -> None:
    agent = Agent(model, output_type=ToolOutput(Weather))
    assert isinstance(agent.run_sync("Who are you?", model_settings=SETTINGS).output, Weather)  # type: ignore[arg-type]


def schema() -> None:
    agent = Agent(model, output_type=NativeOutput(Weather))
    assert isinstance(agent.run_sync("Who are you?", model_settings=SETTINGS).output, Weather)  # type: ignore[arg-type]


def errors() -> None:
    too_long = error_of(lambda: Agent(model).run_sync("word " * 5000), ModelHTTPError)
    assert too_long.status_code == 400


main(whole, responses, stream, tools, schema, errors)
