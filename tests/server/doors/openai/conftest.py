"""The shipped model behind a real socket, and OpenAI's own client, unmodified."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest

from tests.server.served import Served, served


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """With calls of ten tokens, so that each answer takes several."""
    async with served(tmp_path_factory.mktemp("openai"), with_model=True, slots=4) as started:
        yield started


@pytest.fixture
async def client(server: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with connected(server, "alice") as made:
        yield made


def connected(server: Served, name: str, path: str = "/v1", **options: object) -> openai.AsyncOpenAI:
    """A client with a key of its own, which repeats nothing by itself unless told to."""
    key = server.host.keys.create(name, replace=True)
    return openai.AsyncOpenAI(base_url=server.url + path, api_key=key, **{"max_retries": 0, **options})  # type: ignore[arg-type]
