"""The real app over a real host in a temporary folder, without a socket between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from canister.config import Settings
from canister.runtime.host import Host
from canister.server.app import create_app, running
from tests.server.ic_door import Door


@pytest.fixture(scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    """Shared by the tests of a file."""
    data_dir = tmp_path_factory.mktemp("server") / "data"
    settings = Settings(data_dir=data_dir, canister=["llama_cpp", "second"], max_body_bytes=1_000_000)
    async with running(Host(settings)) as started:
        yield started


Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def connect(host: Host) -> AsyncIterator[Connect]:
    """Makes clients: `connect(key)` for an API key, `connect()` for the anonymous caller."""
    async with AsyncExitStack() as clients:

        def client(key: str | None = None, **headers: str) -> httpx.AsyncClient:
            if key is not None:
                headers["Authorization"] = f"Bearer {key}"
            # Passed on errors: a fault of the app is answered, never raised at the client.
            transport = httpx.ASGITransport(app=create_app(host), raise_app_exceptions=True)
            made = httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)
            clients.push_async_callback(made.aclose)
            return made

        yield client


@pytest.fixture
def controller(host: Host, connect: Connect) -> httpx.AsyncClient:
    """A client that controls the canisters."""
    return connect(host.key_path.read_text().strip())


@pytest.fixture
def anonymous(connect: Connect) -> httpx.AsyncClient:
    return connect()


@pytest.fixture
async def door(host: Host) -> AsyncIterator[Door]:
    """The first canister through the IC door."""
    transport = httpx.ASGITransport(app=create_app(host), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield Door(host, http, host.default)
