"""Web pages: those that are named with --browser-origins call with an API key, others do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

PAGE, OTHER = "http://localhost:5173", "https://elsewhere.example"
PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 2}
ASKS_FIRST = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("pages")
    async with served(folder, with_model=True, browser_origins=[PAGE]) as started:
        yield started


async def test_a_page_that_is_named_asks_and_then_calls(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.url) as browser:
        asked = await browser.options(PATH, headers={"Origin": PAGE, **ASKS_FIRST})
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert asked.headers["access-control-allow-headers"].startswith("authorization")
    async with server.client(
        "alice",
    ) as alice:
        answer = await alice.post(PATH, json=BODY, headers={"Origin": PAGE})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {"retry-after", "retry-after-ms", "x-should-retry", "x-request-id"} <= exposed
        stream = await alice.post(PATH, json={**BODY, "stream": True}, headers={"Origin": PAGE})
        assert stream.text.endswith("data: [DONE]\n\n")
        assert stream.headers["access-control-allow-origin"] == PAGE


async def test_it_may_read_why_it_is_refused(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers={"Origin": PAGE}) as browser:
        for headers in ({}, {"Authorization": "Bearer none"}):
            refused = await browser.post(PATH, json=BODY, headers=headers)
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
            assert refused.json()["error"]["code"] == "invalid_api_key"


async def test_a_page_that_is_not_named_does_not_get_in(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.url) as browser:
        asked = await browser.options(PATH, headers={"Origin": OTHER, **ASKS_FIRST})
    assert (asked.status_code, asked.json()["error"]["type"]) == (403, "permission_error")
    assert "--browser-origins" in asked.json()["error"]["message"]
    assert "access-control-allow-origin" not in asked.headers
