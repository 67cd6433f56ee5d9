"""Two callers on one server: Alice, who has much that is hers, and Bob, who would like to know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from canister.config import Settings
from canister.model_file.shipped import shipped_model
from canister.runtime.host import Host
from canister.server.app import create_app, running

# Strings that Bob must never see; what he sends himself may come back to him.
PROMPT = "canaryprompt of alice"
CACHE = "canarycache"
LOG = "canarylog"
FILE = "canaryfile/canaryname"
CONTENT = "canarycontent"
MODEL = "canarymodels/canarymodel.gguf"


@dataclass(frozen=True)
class World:
    """callers: clients by name, with their API keys. principals: who they are."""

    host: Host
    callers: dict[str, httpx.AsyncClient]
    principals: dict[str, str]
    keys: dict[str, str]

    async def post(self, who: str, method: str, argument: object = None) -> httpx.Response:
        return await self.callers[who].post(f"/canisters/llama_cpp/{method}", json=argument)


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Alice has chatted, saved chats, written logs; the controller has uploaded files. Bob has done nothing."""
    model = shipped_model()
    if model is None:
        pytest.skip("the chat model is not in this checkout")
    folder: Path = tmp_path_factory.mktemp("isolation") / "data"
    settings = Settings(data_dir=folder, instruction_limit=None, query_instruction_limit=None, slots=2)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(running(Host(settings)))
        app = create_app(host)
        keys: dict[str, str | None] = {name: host.keys.create(name) for name in ("alice", "bob", "carol")}
        keys |= {"controller": host.key_path.read_text().strip(), "anonymous": None}
        clients = {
            name: await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(app=app, raise_app_exceptions=True),
                    base_url="http://localhost",
                    headers={} if key is None else {"Authorization": f"Bearer {key}"},
                    timeout=60,
                )
            )
            for name, key in keys.items()
        }
        principals = {name: (await client.get("/whoami")).json() for name, client in clients.items()}
        world = World(host, clients, principals, {name: key for name, key in keys.items() if key is not None})

        async def must(who: str, method: str, argument: object = None) -> None:
            response = await world.post(who, method, argument)
            assert response.status_code == 200, response.text

        for path, data in ((MODEL, model.read_bytes()), (FILE, CONTENT.encode())):
            response = await clients["controller"].put(f"/canisters/llama_cpp/files/{path}", content=data)
            assert response.status_code == 200, response.text
        await must("controller", "set_access", {"level": 1})
        await must("controller", "load_model", {"args": ["--model", MODEL]})
        await must("controller", "chats_resume")
        chat = ["--prompt-cache", CACHE, "--prompt-cache-all"]
        await must("alice", "new_chat", {"args": chat})
        await must("alice", "run_update", {"args": [*chat, "-p", PROMPT, "-n", "4", "--log-file", LOG]})
        await must("alice", "copy_prompt_cache", {"from": CACHE, "to": f"{CACHE}2"})
        await must(
            "controller", "run_update", {"args": ["-p", PROMPT, "-n", "1", "--log-file", f"{LOG}/of-controller"]}
        )
        yield world
