"""LlamaIndex's client for what speaks as OpenAI, unmodified."""

from __future__ import annotations

from cases import BASE, KEY, Weather, main
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model="m",
    api_base=f"{BASE}/v1",
    api_key=KEY,
    is_chat_model=True,
    is_function_calling_model=True,
    temperature=0,
    max_tokens=300,
    max_retries=0,
    context_window=1024,
)


def get_weather(city: str, days: int) -> str:
    """Tells the weather."""
    return f"{city}, {days}: 12 degrees"


def whole() -> None:
    assert "canister" in str(llm.chat([ChatMessage(role="user", content="Who are you?")]))


def stream() -> None:
    pieces = [part.delta or "" for part in llm.stream_chat([ChatMessage(role="user", content="Who are you?")])]
    assert "canister" in "".join(pieces)
    assert len(pieces) > 5


def tools() -> None:
    tool = FunctionTool.from_defaults(get_weather, fn_schema=Weather)
    answer = llm.chat_with_tools([tool], user_msg="Who are you?", tool_required=True)
    calls = llm.get_tool_calls_from_response(answer)
    assert calls
    Weather.model_validate(calls[0].tool_kwargs)


main(whole, stream, tools)
