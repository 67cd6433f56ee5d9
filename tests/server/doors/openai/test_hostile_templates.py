"""A model whose chat template is hostile: its requests end with a 400 that says so, and the server goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("templates"), with_model=True) as started:
        yield started


async def load(server: Served, template: str) -> None:
    flags = ["--model", "models/llama-canister-tiny.gguf", "--chat-template", template]
    async with server.client() as controller:
        (await controller.post("/load_model", json={"args": flags})).raise_for_status()


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (LOOP, "too much time"),
        ("{{ 9 ** (9 ** 9) }}", "too much time"),
        ("{{ ('a' * 10 ** 6) * 10 ** 6 }}", "too much memory"),
        (
            "{% set x = namespace(l=['a' * 999]) %}{% for i in range(99) %}{% set x.l = x.l + x.l %}{% endfor %}",
            "too much",
        ),
        ("{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}", "writes more than 8388608 characters"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recurses too deeply"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be read"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "fails"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "fails"),
        ("{{ raise_exception('only on Sundays') }}", "refuses these messages: only on Sundays"),
    ],
    ids=["loop", "power", "text", "list", "output", "macro", "depth", "classes", "globals", "refusal"],
)
async def test_a_hostile_template(server: Served, template: str, told: str) -> None:
    await load(server, template)
    async with server.client("alice") as alice:
        answer = await alice.post("/v1/chat/completions", json={**ASK, "stream": True})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert (error["type"], told in error["message"]) == ("invalid_request_error", True), error
        assert len(answer.content) < 1000
        await load(server, "chatml")
        assert (await alice.post("/v1/chat/completions", json=ASK)).status_code == 200


async def test_others_are_answered_while_a_template_loops(server: Served) -> None:
    await load(server, LOOP)
    async with server.client("alice") as alice, server.client("bob") as bob:

        async def finished() -> httpx.Response:
            return await alice.post("/v1/chat/completions", json=ASK)

        looping = asyncio.create_task(finished())
        for _ in range(3):
            assert (await bob.get("/v1/models")).status_code == 200
            text = await bob.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 1})
            assert text.status_code == 200, text.text
        assert not looping.done()  # it has seconds of CPU time; these take milliseconds
        assert (await looping).status_code == 400
