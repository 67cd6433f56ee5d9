"""Models over REST: listed as their headers tell, shown in detail, unloaded for good."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.model_file.gguf import read_gguf
from tests.engine.split_models import split
from tests.engine.tiny_models import llama_model
from tests.harness import CHAT_MODEL
from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

BASE = "/canisters/llama_cpp"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path / "home") as started:
        yield started


@pytest.fixture
async def client(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client() as client:
        yield client


async def put(client: httpx.AsyncClient, file: Path, name: str) -> None:
    assert (await client.put(f"{BASE}/files/{name}", content=file.read_bytes())).status_code == 200


async def load(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post(f"{BASE}/load_model", json={"args": ["--model", name, "-c", "128"]})
    assert response.status_code == 200, response.text


async def listed(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    models = (await client.get(f"{BASE}/models")).raise_for_status().json()["models"]
    return {model["path"]: model for model in models}


async def test_models_are_listed_as_their_headers_tell(client: httpx.AsyncClient, tmp_path: Path) -> None:
    assert await listed(client) == {}
    tiny = llama_model(tmp_path / "tiny.gguf", "q4_k_m")
    parts = split(llama_model(tmp_path / "whole.gguf", "f16"), 3, tmp_path, "m")
    await put(client, CHAT_MODEL, "models/chat.gguf")
    await put(client, tiny, "tiny.GGUF")
    for part in reversed(parts):
        await put(client, part, f"models/{part.name}")
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    await put(client, tmp_path / "bad.gguf", "models/bad.gguf")
    await put(client, parts[1], "models/lonely-00002-of-00003.gguf")
    await put(client, tiny, "models/readme.txt")
    await load(client, "models/m-00001-of-00003.gguf")
    found = await listed(client)
    assert set(found) == {
        "models/chat.gguf",
        "tiny.GGUF",
        "models/m-00001-of-00003.gguf",
        "models/bad.gguf",
        "models/lonely-00002-of-00003.gguf",
    }
    chat = found["models/chat.gguf"]
    assert (chat["architecture"], chat["quantization"], chat["n_ctx_train"]) == ("llama", "Q8_0", 1024)
    assert (chat["bytes"], chat["n_parts"], chat["problem"]) == (CHAT_MODEL.stat().st_size, 1, None)
    assert found["tiny.GGUF"]["quantization"] == "Q4_K_M"
    whole = found["models/m-00001-of-00003.gguf"]
    assert (whole["n_parts"], whole["quantization"]) == (3, "F16")
    assert whole["bytes"] == sum(part.stat().st_size for part in parts)
    assert [path for path, model in found.items() if model["is_loaded"]] == ["models/m-00001-of-00003.gguf"]
    assert "Not a GGUF file" in found["models/bad.gguf"]["problem"]
    assert "load the first one" in found["models/lonely-00002-of-00003.gguf"]["problem"]
    assert await by_pages(client, f"{BASE}/models", "models", 2) == [*found.values()]


async def by_pages(client: httpx.AsyncClient, path: str, field: str, limit: int) -> list[dict[str, Any]]:
    """All entries of a list, read so many at a time."""
    found: list[dict[str, Any]] = []
    asked: dict[str, Any] = {"limit": limit}
    while True:
        page = (await client.get(path, params=asked)).raise_for_status().json()
        assert len(page[field]) <= limit
        found += page[field]
        if page["next"] is None:
            return found
        asked["after"] = page["next"]


async def test_a_model_in_detail(client: httpx.AsyncClient) -> None:
    await put(client, CHAT_MODEL, "models/chat.gguf")
    told = (await client.get(f"{BASE}/models/models/chat.gguf")).json()
    assert (told["n_layers"], told["width"], told["n_heads"], told["n_kv_heads"]) == (5, 256, 8, 4)
    assert (told["n_vocab"], told["n_params"]) == (2048, 3_967_744)
    assert told["kv_bytes_per_token"] == 5 * 2 * 4 * 32 * 2
    assert "<|im_start|>" in told["chat_template"]
    assert (told["files"], len(told["sha256"])) == (["models/chat.gguf"], 64)
    missing = await client.get(f"{BASE}/models/models/none.gguf")
    assert missing.status_code == 404
    assert "models/none.gguf" in missing.json()["Err"]["Other"]


async def test_fit_and_cost_are_told_before_loading(client: httpx.AsyncClient) -> None:
    await put(client, CHAT_MODEL, "models/chat.gguf")
    path = f"{BASE}/models/models/chat.gguf"
    fit = (await client.post(path, json={"args": ["-c", "256"], "prompt_tokens": 20, "answer_tokens": 10})).json()
    assert (fit["fits"], fit["reasons"], fit["loads"], fit["n_ctx"]) == (True, [], "yes", 256)
    assert fit["largest_n_ctx"] >= 256
    assert fit["heap_bytes"] < fit["heap_limit_bytes"]
    # The same as is told of the model once it is loaded.
    await load(client, "models/chat.gguf")
    prompt = {"args": ["--prompt-cache", "fit", "-p", "word " * 19], "answer_tokens": 10}
    told = (await client.post(f"{BASE}/estimate_run", json=prompt)).json()["Ok"]
    again = (
        await client.post(
            path, json={"args": ["-c", "128"], "prompt_tokens": told["n_prompt_tokens"], "answer_tokens": 10}
        )
    ).json()
    assert again["calls"] == told["calls"] == 1
    assert again["total_instructions"] == told["total_instructions"]
    long = (await client.post(path, json={"args": ["-c", "64"], "prompt_tokens": 60, "answer_tokens": 60})).json()
    assert long["calls"] == 0
    assert "does not fit a context of 64" in long["estimated"][-1]
    for wrong, told_why in (
        ({"args": ["--nonsense"]}, "nonsense"),
        ({"args": 3}, "args"),
        ({"answer_tokens": -1}, "-1"),
    ):
        refused = await client.post(path, json=wrong)
        assert (refused.status_code, told_why in refused.text) == (400, True), refused.text


async def test_fit_and_cost_are_told_before_a_file_is_sent(client: httpx.AsyncClient, tmp_path: Path) -> None:
    whole = CHAT_MODEL.read_bytes()
    question = {"args": ["-c", "256"], "prompt_tokens": 20, "answer_tokens": 10}

    async def asked(header: bytes, size: int = len(whole)) -> httpx.Response:
        body = {**question, "header": base64.b64encode(header).decode(), "file_bytes": size}
        return await client.post(f"{BASE}/models", json=body)

    told = (await asked(whole[: read_gguf(CHAT_MODEL).data_offset])).raise_for_status().json()
    assert await listed(client) == {}
    await put(client, CHAT_MODEL, "models/chat.gguf")
    assert told == (await client.post(f"{BASE}/models/models/chat.gguf", json=question)).json()
    assert told["load_instructions"] == 10 * len(whole)
    loaded = await client.post(f"{BASE}/load_model", json={"args": ["--model", "models/chat.gguf", "-c", "128"]})
    assert int(loaded.headers["x-ic-instructions"]) == told["load_instructions"]
    assert told["load_seconds"] > 0
    assert told["upload_cycles"] > told["load_cycles"] > 0
    part = split(llama_model(tmp_path / "whole.gguf", "f16"), 3, tmp_path, "m")[1]
    for header, size, why in (
        (whole[:200], len(whole), "goes on behind the 200 bytes"),
        (b"<html>", 6, "Not a GGUF file"),
        (whole[: read_gguf(CHAT_MODEL).data_offset], len(whole) // 2, "cut off"),
        (part.read_bytes()[: read_gguf(part).data_offset], part.stat().st_size, "part 2 of 3"),
    ):
        refused = await asked(header, size)
        assert (refused.status_code, why in refused.text) == (400, True), refused.text


async def test_an_unloaded_model_is_not_loaded_again(tmp_path: Path) -> None:
    async with served(tmp_path) as server, server.client() as client:
        none = await client.delete(f"{BASE}/engine")
        assert (none.status_code, none.json()) == (404, {"Err": {"Other": "no model is loaded"}})
        await put(client, CHAT_MODEL, "models/chat.gguf")
        await load(client, "models/chat.gguf")
        run = {"args": ["-p", "hello", "-n", "2"]}
        assert (await client.post(f"{BASE}/run_query", json=run)).status_code == 200
        done = await client.delete(f"{BASE}/engine")
        assert (done.status_code, done.json()) == (200, {"path": "models/chat.gguf"})
        assert (await client.get(f"{BASE}/engine")).json()["model"] is None
        gone = await client.post(f"{BASE}/run_query", json=run)
        assert (gone.status_code, "No model is loaded" in gone.text) == (404, True)
        assert (await client.get("/readyz")).status_code == 200
        wrong = await client.post(f"{BASE}/engine")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, DELETE")
    async with served(tmp_path) as server, server.client() as client:
        assert (await client.get(f"{BASE}/engine")).json()["reason"] == "none"
        await load(client, "models/chat.gguf")
        assert (await client.post(f"{BASE}/run_query", json=run)).status_code == 200


async def test_who_may(server: Served, client: httpx.AsyncClient) -> None:
    await client.post(f"{BASE}/set_access", json={"level": 1})
    async with server.client("reader") as reader:
        principal = (await reader.get("/whoami")).json()
        role = {"principal": principal, "role": "AdminQuery", "note": ""}
        for path in ("models", "models/x.gguf"):
            assert (await reader.get(f"{BASE}/{path}")).status_code == 401
        assert (await client.post(f"{BASE}/assignAdminRole", json=role)).status_code == 200
        assert (await reader.get(f"{BASE}/models")).status_code == 200
        assert (await reader.delete(f"{BASE}/engine")).status_code == 401
