"""Requests that are too much: each is told so with a 4xx, and the server goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from canister.api import strict_json
from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "Hi"}


def deep(n: int, inner: str = "1") -> str:
    return '{"a":' * n + inner + "}" * n


def with_arguments(text: str) -> list[Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    return [USER, {"role": "assistant", "tool_calls": [call]}, USER]


@pytest.fixture(scope="module")
async def bob(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    async with served(tmp_path_factory.mktemp("hostile"), with_model=True) as server, server.client("bob") as client:
        yield client


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"messages": [{"role": "user", "content": "x " * 4_000_000}]}, "exceeds the available context size"),
        ({"messages": [{"role": "user", "content": "y" * 500}] * 10_000}, "exceeds the available context size"),
        ({"messages": [USER] * 30_000}, "at most 10000 messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 1001}]}, "at most 1000 parts"),
        ({"messages": [USER], "stop": [f"s{n}" for n in range(100_000)]}, "more than 100000 values"),
        ({"messages": [USER], "stop": [f"s{n}" for n in range(90_000)]}, "at most 256 texts"),
        ({"messages": [USER], "logit_bias": {str(n): 1 for n in range(90_000)}}, "at most 20000 tokens"),
        ({"messages": [USER], "logit_bias": [["x" * 300, 1]]}, "1 to 256 characters"),
        ({"messages": with_arguments("[" * 100_000)}, "nested too deeply"),
        ({"messages": [USER], "n": 10**30}, "n: "),
        ({"messages": [USER], "prompt_cache_key": "x" * 100_000}, "prompt_cache_key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_body_that_is_too_much(bob: httpx.AsyncClient, body: dict[str, Any], told: str) -> None:
    answer = await bob.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('{"messages":' + "[" * 1_000_000, "more than 100000 values"),
        ('{"messages":' + "[" * 90_000, "recursion limit"),
        ('{"messages":[{"role":"user","content":"x"}],"json_schema":' + deep(50_000) + "}", "recursion limit"),
        ('{"messages":' + "1" * 8_000_000 + "}", "number out of range"),
        ("\x00" * 8_000_000, "Invalid JSON"),
        ('{"messages":[{"role":"user","content":"x"}],"temperature":1e999}', "larger than a 64-bit float"),
        ('{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', "Invalid JSON"),
    ],
    ids=lambda value: value[-20:],
)
async def test_a_text_that_is_no_json_that_is_read(bob: httpx.AsyncClient, body: str, told: str) -> None:
    answer = await bob.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]
    assert len(answer.content) < 1000


async def test_as_deep_as_json_is_read(bob: httpx.AsyncClient) -> None:
    body = '{"messages":[{"role":"user","content":"x"}],"max_tokens":1,"chat_template_kwargs":' + deep(150) + "}"
    assert (await bob.post("/v1/chat/completions", content=body)).status_code == 200


async def test_above_the_limit_of_bodies(bob: httpx.AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": "x" * 9_000_000}]}
    answer = await bob.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


async def test_halves_of_surrogate_pairs_are_answered_as_text(server: Served) -> None:
    """JSON can carry what UTF-8 cannot."""
    body = json.dumps({"messages": [{"role": "user", "content": "\ud83d?"}], "max_tokens": 2})
    async with server.client("bob") as bob:
        answer = await bob.post("/v1/chat/completions", content=body.encode())
    assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize(
    ("value", "is_large"),
    [
        ("x" * 1000, False),
        ("x" * 100_000, True),
        ([1] * 1000, False),
        ([1] * 3000, True),
        ([[1] * 50] * 50, True),
        ({str(n): n for n in range(900)}, False),
        ({str(n): n for n in range(3000)}, True),
        (None, False),
    ],
    ids=["text", "long text", "list", "long list", "lists", "object", "large object", "null"],
)
def test_what_is_gone_through_beside_the_event_loop(value: object, is_large: bool) -> None:
    assert strict_json.is_large(value) is is_large
    assert strict_json.is_large({"deep": [value]}) is is_large
