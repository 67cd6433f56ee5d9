"""`echo` with `logprobs`: the probabilities of the prompt's own tokens, as evaluation harnesses ask for them."""

from __future__ import annotations

import json
from typing import Any

import llama_cpp
import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from tests.harness import CHAT_MODEL
from tests.server.served import Served

pytestmark = pytest.mark.anyio

TEXT = "<|im_start|>user\nTell me, what is a llama? Ünd wo lebt es?<|im_end|>\n<|im_start|>assistant\nA llama"
CLOSE = 0.02  # of llama.cpp's own probabilities, which it computes in another batch and with flash attention


@pytest.fixture(scope="module")
def llama() -> llama_cpp.Llama:
    return llama_cpp.Llama(str(CHAT_MODEL), n_ctx=512, n_threads=1, logits_all=True, verbose=False)


def tokens_of(llama: llama_cpp.Llama, text: str) -> list[int]:
    return llama.tokenize(text.encode(), special=True)


def logprobs_by(llama: llama_cpp.Llama, tokens: list[int]) -> NDArray[np.float64]:
    """Of each token, those of all that might follow it."""
    llama.reset()
    llama.eval(tokens)
    logits = np.array(llama.scores[: len(tokens)], np.float64)
    most = logits.max(axis=1, keepdims=True)
    return logits - most - np.log(np.exp(logits - most).sum(axis=1, keepdims=True))


def check(told: Any, llama: llama_cpp.Llama, tokens: list[int]) -> None:
    """Are the first ones told those of the prompt?"""
    n = len(tokens)
    expected = logprobs_by(llama, tokens)
    assert told.token_logprobs[0] is None
    assert told.top_logprobs[0] is None
    own = [expected[at, tokens[at + 1]] for at in range(n - 1)]
    assert told.token_logprobs[1:n] == pytest.approx(own, abs=CLOSE)
    for at, top in enumerate(told.top_logprobs[1:n]):
        assert max(top.values()) == pytest.approx(expected[at].max(), abs=CLOSE)


async def test_they_are_those_of_llama_cpp(client: openai.AsyncOpenAI, llama: llama_cpp.Llama) -> None:
    tokens = tokens_of(llama, TEXT)
    assert len(tokens) > 30  # several calls, and several decodes
    before = await client.completions.create(model="x", prompt=TEXT, max_tokens=4, temperature=0)
    asked: dict[str, Any] = {"model": "x", "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 2}
    as_text = await client.completions.create(prompt=TEXT, **asked)
    as_tokens = await client.completions.create(prompt=tokens, **asked)
    for answer in (as_text, as_tokens):
        choice = answer.choices[0]
        told = choice.logprobs
        assert told is not None
        assert choice.text == TEXT + before.choices[0].text
        check(told, llama, tokens)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(tokens)
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        assert len(told.tokens or ()) == len(tokens) + answer.usage.completion_tokens
        assert told.text_offset is not None
        ends = [*told.text_offset[1:], len(choice.text)]
        for token, begin, end in zip(told.tokens or (), told.text_offset, ends, strict=True):
            assert choice.text[begin:end] == token or "\N{REPLACEMENT CHARACTER}" in token
    assert as_text.choices[0].logprobs == as_tokens.choices[0].logprobs
    answers = [answer.usage.model_dump()["calls"] for answer in (as_text, as_tokens) if answer.usage]
    assert answers == [answers[0]] * 2
    assert answers[0] > 3


async def test_several_prompts_without_an_answer(client: openai.AsyncOpenAI, llama: llama_cpp.Llama) -> None:
    prompts = [tokens_of(llama, text) for text in (TEXT, "Once upon a time", TEXT[:40])] + [[7]]
    answer = await client.completions.create(
        model="x", prompt=prompts, max_tokens=0, echo=True, logprobs=1, extra_body={"cache_prompt": True}
    )
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 4
    for tokens, choice in zip(prompts, answer.choices, strict=True):
        assert choice.logprobs is not None
        assert len(choice.logprobs.tokens or ()) == len(tokens)
        check(choice.logprobs, llama, tokens)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


async def test_the_token_that_ends_an_answer_is_told(client: openai.AsyncOpenAI, llama: llama_cpp.Llama) -> None:
    """Harnesses take the last token for the one that was made, whatever it is."""
    (end,) = tokens_of(llama, "<|im_end|>")
    answer = await client.completions.create(
        model="x", prompt="Hello", max_tokens=1, echo=True, logprobs=1, logit_bias={str(end): 100}
    )
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == ("Hello", "stop")
    assert choice.logprobs is not None
    assert len(choice.logprobs.token_logprobs or ()) == len(tokens_of(llama, "Hello")) + 1


async def test_several_choices_and_a_stream_have_the_same(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "x", "prompt": [TEXT, "Hello"], "max_tokens": 3, "echo": True, "logprobs": 1}
    asked |= {"n": 2, "seed": 3}
    answer = await client.completions.create(**asked)
    texts, told = [""] * 4, [list[float | None]() for _ in range(4)]
    async for chunk in await client.completions.create(stream=True, **asked):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.logprobs is not None:
                told[choice.index] += choice.logprobs.token_logprobs or []
    assert texts == [choice.text for choice in answer.choices]
    assert told == [choice.logprobs and choice.logprobs.token_logprobs for choice in answer.choices]
    assert [each[0] for each in told] == [None] * 4


async def test_with_an_idempotency_key_it_is_the_same_again(server: Served) -> None:
    body = {"prompt": TEXT, "max_tokens": 5, "echo": True, "logprobs": 1, "n": 2}
    async with server.client("bob") as bob:
        said = [(await bob.post("/v1/completions", json=body, headers={"Idempotency-Key": "k"})).json() for _ in "ab"]
        other = await bob.post("/v1/completions", json=body | {"seed": said[0]["choices"][0]["index"]})
    first, again = ([{"text": one["text"], "logprobs": one["logprobs"]} for one in each["choices"]] for each in said)
    assert json.dumps(first) == json.dumps(again)
    n = len(TEXT)
    scores = [
        [score for score, offset in zip(told["token_logprobs"], told["text_offset"], strict=True) if offset < n]
        for told in (one["logprobs"] for one in [*first, *other.json()["choices"]])
    ]
    assert len(scores[0]) > 30
    assert scores == [scores[0]] * 4
