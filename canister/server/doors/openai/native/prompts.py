"""What llama.cpp's own routes take as a prompt: text, tokens, both mixed, an object with a text, a list of these. Pure.

    "text"    [1, 2, 3]    [1, "text", 2]    {"prompt_string": …}    ["one", [1, 2], {"prompt_string": "three"}]

A list with a number in it is one prompt, another one is a list of prompts.
"""

from __future__ import annotations

from typing import TypeAlias

from pydantic import JsonValue

from canister.server.doors.openai.errors import invalid

MAX_PROMPTS = 256
NO_IMAGES = "image input is not supported: leave multimodal_data out"

Prompt: TypeAlias = str | tuple[int | str, ...]


def prompts_of(value: JsonValue, field: str = "prompt") -> tuple[list[Prompt], bool]:
    """The prompts, and whether they came as a list, so that a list goes back. DoorError names the field."""
    if not isinstance(value, list) or any(map(_is_number, value)):
        return [_prompt(value, field)], False
    if not 0 < len(value) <= MAX_PROMPTS:
        raise invalid(f"{field} is a list of 1 to {MAX_PROMPTS} prompts, not {len(value)}", field)
    return [_prompt(item, f"{field}[{index}]") for index, item in enumerate(value)], True


def pieces_of(value: JsonValue, field: str) -> Prompt:
    """Text, or a list of token ids and texts, which may be empty."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return tuple(_piece(item, f"{field}[{index}]") for index, item in enumerate(value))
    raise invalid(f"{field} is a text, or a list of tokens and texts", field)


def _prompt(value: JsonValue, field: str) -> Prompt:
    if not isinstance(value, dict):
        return pieces_of(value, field)
    if value.get("multimodal_data"):
        raise invalid(f"{field}: {NO_IMAGES}", field)
    if "prompt_string" not in value:
        raise invalid(f"{field} is an object with prompt_string", field)
    return pieces_of(value["prompt_string"], f"{field}.prompt_string")


def _piece(value: JsonValue, field: str) -> int | str:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31):
        return value
    raise invalid(f"{field} is the number of a token, or a text", field)


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
