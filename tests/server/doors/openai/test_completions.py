"""Texts gone on with: what is asked for, several prompts together, and OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from canister.server.doors.openai import fields
from canister.server.doors.openai.completions import CompletionBody, turns_of
from canister.server.doors.openai.errors import DoorError
from tests.server.doors.openai.views import view
from tests.server.served import Served

pytestmark = pytest.mark.anyio


def turns(**body: Any) -> list[Any]:
    return turns_of(fields.read(CompletionBody, json.dumps(body).encode()), view())


# -- requests


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
        (["a", [3]], ["a", (3,)]),
    ],
)
def test_prompts(prompt: object, prompts: list[object]) -> None:
    assert [turn.prompt for turn in turns(prompt=prompt)] == prompts


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": "a", "n": 2, "best_of": 1}, "best_of"),
        ({"prompt": "a", "best_of": 9}, "best_of"),
        ({"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": "a", "echo": True, "logprobs": 1, "suffix": "b"}, "echo"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "n": 9}, "n"),
    ],
)
def test_what_does_not_fit(body: dict[str, Any], param: str) -> None:
    with pytest.raises(DoorError) as told:
        turns(**body)
    assert (told.value.status, told.value.param) == (400, param)


def test_all_of_a_request_is_in_each_turn() -> None:
    first, second = turns(prompt=["a", "b"], n=2, logprobs=3, stop="x", seed=4, max_tokens=7, json_schema={})
    assert first.model_copy(update={"prompt": "b"}) == second
    assert (first.n, first.n_logprobs, first.stops, first.seed, first.max_tokens) == (2, 3, ("x",), 4, 7)
    assert first.output_schema == {"type": "object"}


# -- a real server


async def test_the_best_of_several_answers(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "x",
        "prompt": "Once",
        "max_tokens": 6,
        "seed": 5,
        "temperature": 2,
        "logprobs": 0,
    }
    made = await client.completions.create(**asked, n=4)
    best = await client.completions.create(**asked, best_of=4)

    def mean(choice: Any) -> float:
        return float(sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs))

    assert [choice.text for choice in best.choices] == [max(made.choices, key=mean).text]
    assert best.usage is not None
    assert made.usage is not None
    assert best.usage.completion_tokens == made.usage.completion_tokens


async def test_the_text_of_tokens_comes_first_too(client: openai.AsyncOpenAI, server: Served) -> None:
    async with server.client("bob") as bob:
        tokens = (await bob.post("/tokenize", json={"content": "Hello there"})).json()["tokens"]
    answer = await client.completions.create(model="x", prompt=tokens, max_tokens=2, echo=True)
    assert answer.choices[0].text.startswith("Hello there")


async def test_several_prompts_are_what_each_would_be_alone(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "llama_cpp", "max_tokens": 8, "temperature": 0}
    prompts = ["Hello", "Once upon a time", "The answer is"]
    together = await client.completions.create(prompt=prompts, **asked)
    alone = [await client.completions.create(prompt=prompt, **asked) for prompt in prompts]
    assert [choice.text for choice in together.choices] == [answer.choices[0].text for answer in alone]
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(answer.usage.prompt_tokens for answer in alone if answer.usage)

    texts = ["", "", ""]
    async for chunk in await client.completions.create(prompt=prompts, stream=True, **asked):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in together.choices]


async def test_the_prompt_comes_first_where_it_is_wanted(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "llama_cpp", "prompt": ["Hello", "Bye"], "max_tokens": 3, "echo": True, "n": 2}
    answer = await client.completions.create(**asked)
    starts = ["Hello", "Hello", "Bye", "Bye"]
    assert [choice.text.startswith(start) for choice, start in zip(answer.choices, starts, strict=True)] == [True] * 4


async def test_probabilities(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="x", prompt="Hello", max_tokens=5, temperature=0, logprobs=2)
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.tokens
    assert told.token_logprobs
    assert told.top_logprobs
    assert "".join(told.tokens) == answer.choices[0].text
    for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert logprob == max(top.values()) == top[token]  # greedy


async def test_one_prompt_that_fails_fails_all(server: Served) -> None:
    async with server.client("bob") as bob:
        answer = await bob.post("/v1/completions", json={"prompt": ["a", "x " * 3000], "max_tokens": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
