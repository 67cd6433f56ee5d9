"""The real server on a real socket, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from canister.config import Settings
from canister.runtime.host import Host
from canister.server import preload
from canister.server.app import create_app, running
from canister.server.http.listener import Server
from canister.server.sockets import bind, url_of
from tests.harness import CHAT_MODEL
from tests.traces import until

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@dataclass
class Served:
    host: Host
    url: str

    @property
    def address(self) -> tuple[str, int]:
        name, _, port = self.url.removeprefix("http://").partition(":")
        return name, int(port)

    def client(self, name: str | None = None, **options: Any) -> httpx.AsyncClient:
        """Calls as the controller, or with a new API key of this name, which is a caller of its own."""
        key = self.host.key_path.read_text().strip() if name is None else self.host.keys.create(name, replace=True)
        headers = {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60, limits=limits, **options)


@asynccontextmanager
async def served(folder: Path, *, with_model: bool = False, **settings: Any) -> AsyncIterator[Served]:
    """with_model: the shipped one is loaded, everybody named may chat, and a call takes ten tokens."""
    chosen = Settings(data_dir=folder / "data", **settings)
    async with running(Host(chosen)) as host:
        if with_model:
            await preload.begin(host, CHAT_MODEL)
        with bind("127.0.0.1", 0) as listener:
            server = Server(create_app(host), host)
            task = asyncio.create_task(server.serve([listener]))
            await until(lambda: server.started)
            found = Served(host, url_of(listener))
            try:
                if with_model:
                    async with found.client() as controller:
                        for method, arg in (
                            ("set_access", {"level": 1, "explanation": ""}),
                            ("set_max_tokens", {"max_tokens_update": 10, "max_tokens_query": 10}),
                        ):
                            response = await controller.post(f"/{method}", json=arg)
                            assert response.status_code == 200, response.text
                yield found
            finally:
                server.should_exit = True
                await task
