"""LangChain's ChatOpenAI, unmodified."""

from __future__ import annotations

from cases import BASE, KEY, Weather, error_of, main
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AuthenticationError, BadRequestError

OPTIONS = {"base_url": f"{BASE}/v1", "model": "m", "temperature": 0, "max_retries": 0}
model = ChatOpenAI(api_key=KEY, **OPTIONS)  # type: ignore[arg-type]


@tool(args_schema=Weather)
def get_weather(city: str, days: int) -> str:
    """Tells the weather."""
    return f"{city}, {days}: 12 degrees"


def whole() -> None:
    answer = model.invoke("Who are you?")
    assert "canister" in str(answer.content)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


def stream() -> None:
    pieces = [str(piece.content) for piece in model.stream("Who are you?")]
    assert "".join(pieces) == model.invoke("Who are you?").content
    assert len([piece for piece in pieces if piece]) > 5


def tools() -> None:
    bound = model.bind_tools([get_weather], tool_choice="required", parallel_tool_calls=False)
    answer = bound.invoke("Who are you?", max_tokens=300)
    assert not answer.invalid_tool_calls
    Weather.model_validate(answer.tool_calls[0]["args"])
    gathered = None
    for piece in bound.stream("Who are you?", max_tokens=300):
        gathered = piece if gathered is None else gathered + piece
    assert gathered is not None
    assert [call["args"] for call in gathered.tool_calls] == [call["args"] for call in answer.tool_calls]  # type: ignore[attr-defined]
    said = get_weather.invoke(answer.tool_calls[0])
    after = model.invoke([("user", "Who are you?"), answer, said])
    assert isinstance(after.content, str)


def schema() -> None:
    structured = model.with_structured_output(Weather, method="json_schema")
    Weather.model_validate(structured.invoke("Who are you?"))


def errors() -> None:
    too_long = error_of(lambda: model.invoke("word " * 5000), BadRequestError)
    assert too_long.code == "context_length_exceeded", too_long
    stranger = ChatOpenAI(api_key="wrong", **OPTIONS)  # type: ignore[arg-type]
    error_of(lambda: stranger.invoke("Hi"), AuthenticationError)


main(whole, stream, tools, schema, errors)
