"""The forms of a prompt that llama.cpp's clients send."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from canister.server.doors.openai.errors import DoorError
from canister.server.doors.openai.native.prompts import MAX_PROMPTS, Prompt, prompts_of


@pytest.mark.parametrize(
    ("value", "prompts", "is_list"),
    [
        ("text", ["text"], False),
        ("", [""], False),
        ([1, 2], [(1, 2)], False),
        ([1, "a", 2], [(1, "a", 2)], False),
        (["a", 1], [("a", 1)], False),
        ({"prompt_string": "a"}, ["a"], False),
        ({"prompt_string": "a", "multimodal_data": []}, ["a"], False),
        (["a"], ["a"], True),
        (["a", "b"], ["a", "b"], True),
        (["a", [1, 2], {"prompt_string": ["b", 3]}], ["a", (1, 2), ("b", 3)], True),
        ([[1], [2]], [(1,), (2,)], True),
    ],
)
def test_forms(value: JsonValue, prompts: list[Prompt], is_list: bool) -> None:
    assert prompts_of(value) == (prompts, is_list)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "prompt"),
        (7, "prompt"),
        ([], "prompt"),
        (["a"] * (MAX_PROMPTS + 1), "prompt"),
        ([1, None], "prompt[1]"),
        ([1, -1], "prompt[1]"),
        ([1, 2**31], "prompt[1]"),
        ([1.5], "prompt[0]"),
        (["a", {"text": "b"}], "prompt[1]"),
        ({"prompt_string": "a", "multimodal_data": ["aGk="]}, "prompt"),
        ({"prompt_string": {}}, "prompt.prompt_string"),
        ([1, True], "prompt[1]"),
    ],
)
def test_what_is_no_prompt(value: JsonValue, param: str) -> None:
    with pytest.raises(DoorError) as caught:
        prompts_of(value)
    assert (caught.value.status, caught.value.param) == (400, param)
