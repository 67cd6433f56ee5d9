"""How a model is told about tools where its template does not: in the form that most models have seen."""

from __future__ import annotations

import json
from collections.abc import Sequence

from canister.chat_format.tools import Tool


def preamble(tools: Sequence[Tool]) -> str:
    """Text for the system message: the tools, and how to call them."""
    described = "\n".join(
        json.dumps({"name": tool.name, "description": tool.description, "parameters": tool.told}, ensure_ascii=False)
        for tool in tools
    )
    return (
        "You may call functions to help the user. These are the functions, one JSON object a line:\n"
        f"<tools>\n{described}\n</tools>\n"
        "To call one, answer with its name and arguments in this form, and nothing after it:\n"
        '<tool_call>\n{"name": "NAME", "arguments": {ARGUMENTS}}\n</tool_call>\n'
        "Without need of a function, just answer."
    )
