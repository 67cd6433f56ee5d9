"""A prompt cache that an admin publishes: other callers' prompts start from its rows, and from no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from canister.engine.kv.slots import PUBLISHED
from canister.herd.publishing import path_of
from canister.herd.workers import Worker
from tests.herd.herds import PROMPT, InProcess, herd_in
from tests.traces import until_so

pytestmark = pytest.mark.anyio

SYSTEM = "You answer questions about canisters, programs that hold their code and their data together. " * 4
RUN = ["--prompt-cache-all", "-p", PROMPT.format(SYSTEM), "-n", "1", "--temp", "0"]


async def shared_tokens(herd: InProcess) -> float:
    """Tokens that were not decoded at any worker since another conversation had them."""
    n = 0.0
    for worker in herd.workers:
        who = herd.host.identity.principal
        async with worker.client.passed_on("GET", "/metrics", b"", {}, who) as answer:
            lines = (await answer.text()).splitlines()
        name = "canister_engine_shared_tokens_total"
        n += sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
    return n


async def ask(herd: InProcess, key: str, name: str) -> str:
    """The whole prompt in bounded calls, and one token."""
    while True:
        body = {"args": ["--prompt-cache", name, *RUN]}
        headers = {"Authorization": f"Bearer {key}"}
        answer = await herd.http.post("/canisters/llama_cpp/run_update", content=json.dumps(body), headers=headers)
        assert answer.status_code == 200, answer.text
        record = answer.json()["Ok"]
        if not record["prompt_remaining"]:
            return str(record["output"])


async def test_what_is_published_is_shared_and_nothing_else(tmp_path: Path) -> None:
    async with herd_in(tmp_path, 2) as herd:
        await herd.call("set_access", {"level": 1})
        own = herd.host.key_path.read_text().strip()
        one, other = (herd.host.keys.create(name) for name in ("one", "other"))
        said = await ask(herd, own, "system")
        assert await ask(herd, one, "mine") == said
        assert await shared_tokens(herd) == 0  # never across callers

        for path, body in (("publish", {"prompt_cache": "system"}), ("unpublish", {"head": "00" * 16})):
            refused = await herd.http.post(f"/herd/{path}", json=body, headers={"Authorization": f"Bearer {one}"})
            assert refused.status_code == 403
        missing = await herd.http.post("/herd/publish", json={"prompt_cache": "nothing"})
        assert missing.status_code == 404
        told = await herd.http.post("/herd/publish", json={"prompt_cache": "system"})
        assert told.status_code == 200, told.text
        head = bytes.fromhex(told.json()["head"])
        assert told.json()["tokens"] > 64
        assert (await herd.http.get("/herd/published")).json() == {"published": [head.hex()]}

        async def is_at(worker: Worker, wanted: bytes) -> bool | None:
            copy = await worker.client.chat(herd.host.default.id, PUBLISHED, path_of(head))
            return True if (b"" if copy is None else copy.head) == wanted else None

        for worker in herd.workers:
            await until_so(lambda worker=worker: is_at(worker, head))  # type: ignore[misc]
        assert await ask(herd, other, "mine") == said
        assert await shared_tokens(herd) > 64

        gone = await herd.http.post("/herd/unpublish", json={"head": head.hex()})
        assert gone.status_code == 200, gone.text
        for worker in herd.workers:
            await until_so(lambda worker=worker: is_at(worker, b""))  # type: ignore[misc]
        assert (await herd.http.get("/herd/published")).json() == {"published": []}
