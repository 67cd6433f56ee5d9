"""What a worker answers whole, through the herd's door: OpenAI's routes and the chat template, as the caller."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from canister.client.local_server import LocalServer
from tests.harness import CHAT_MODEL
from tests.herd.herds import client_of, herd_process, wait_ready

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with herd_process(tmp_path_factory.mktemp("herd")) as server:
        yield server


async def test_openai_clients_and_templates(server: LocalServer) -> None:
    async with client_of(server) as http:
        await wait_ready(http)
        messages = [{"role": "user", "content": "Who are you?"}]
        body = {"model": "llama_cpp", "messages": messages, "temperature": 0, "max_tokens": 12}
        whole = await http.post("/v1/chat/completions", json=body)
        assert whole.status_code == 200, whole.text
        text = whole.json()["choices"][0]["message"]["content"]
        assert text
        async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = [line async for line in response.aiter_lines() if line.startswith("data: {")]
        assert len(events) > 3
        template = await http.post("/canisters/llama_cpp/apply-template", json={"messages": messages})
        assert "Who are you?" in template.json()["prompt"]
        anonymous = await http.post("/v1/chat/completions", json=body, headers={"Authorization": ""})
        assert anonymous.status_code == 401  # nobody becomes the herd by coming through it


async def test_the_engine_is_that_of_a_worker(server: LocalServer) -> None:
    async with client_of(server) as http:
        await wait_ready(http)
        told = (await http.get("/canisters/llama_cpp/engine")).json()
        assert told["file"]["name"].rpartition("/")[2] == CHAT_MODEL.name
        assert told["model"]  # architecture, size and quantization
        refused = await http.get("/canisters/llama_cpp/engine", headers={"Authorization": ""})
        assert refused.status_code == 401  # as in front of a single server


async def test_a_named_chat_and_its_cache_are_removed_together(server: LocalServer) -> None:
    async with client_of(server) as http:
        await wait_ready(http)
        said = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
        put = await http.put("/canisters/llama_cpp/chats/mine", json=said)
        assert put.status_code == 200, put.text
        flags = ["--prompt-cache", "chat-mine", "--prompt-cache-all", "-p", "Hi", "-n", "2"]
        assert (await http.post("/canisters/llama_cpp/run_update", json={"args": flags})).status_code == 200
        removed = await http.delete("/canisters/llama_cpp/chats/mine")
        assert removed.status_code == 200, removed.text
        assert (await http.get("/canisters/llama_cpp/chats")).json()["chats"] == []
        gone = await http.post(
            "/canisters/llama_cpp/remove_prompt_cache", json={"args": ["--prompt-cache", "chat-mine"]}
        )
        assert "not found" in gone.json()["Ok"]["output"]
