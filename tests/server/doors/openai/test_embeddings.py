"""Vectors of texts, with the unmodified clients of OpenAI and Ollama against a live server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
from numpy.typing import NDArray

from canister.server.doors.openai.embeddings import cut, numbers, scaled, texts_of
from canister.server.doors.openai.errors import DoorError
from tests.embedding_models import N_CTX, as_llama_cpp_python, distance, embedding_model
from tests.server.doors.openai.conftest import connected
from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

TEXTS = ["hello world", "the cat sat on the mat", "a", "mat " * 100]
NEAR = 2e-5  # of the same text beside others, in a vector of length 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedding_model(tmp_path_factory.mktemp("embedding") / "bert.gguf")


@pytest.fixture(scope="module")
async def embedder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server whose only canister has an embedding model."""
    async with served(tmp_path_factory.mktemp("embedder")) as started:
        async with started.client() as controller:
            await load(controller, model)
        yield started


async def load(controller: httpx.AsyncClient, model: Path, *flags: str, **more: Any) -> None:
    stored = await controller.put("/canisters/llama_cpp/files/models/embed.gguf", content=model.read_bytes())
    assert stored.status_code == 200, stored.text
    for method, arg in (
        ("load_model", {"args": ["--model", "models/embed.gguf", *flags]}),
        ("set_access", {"level": 1, "explanation": ""}),
    ):
        answer = await controller.post(f"/canisters/llama_cpp/{method}", json=arg)
        assert answer.status_code == 200, answer.text


@pytest.fixture
async def openai_client(embedder: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with connected(embedder, "alice") as made:
        yield made


def vectors_of(answer: Any) -> NDArray[np.float32]:
    assert [item.index for item in answer.data] == [*range(len(answer.data))]
    return np.array([item.embedding for item in answer.data], np.float32)


# -- OpenAI's client


async def test_vectors_are_those_of_llama_cpp_python(openai_client: openai.AsyncOpenAI, model: Path) -> None:
    answer = await openai_client.embeddings.create(model="llama_cpp", input=TEXTS)  # it asks for base64
    found = vectors_of(answer)
    assert distance(found, as_llama_cpp_python(model, TEXTS)) < NEAR
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    plain = await openai_client.embeddings.create(model="gpt-4o", input=TEXTS, encoding_format="float")
    assert distance(vectors_of(plain), found) < NEAR
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4 + 8 + 3 + 102
    assert answer.usage.model_extra is not None
    assert answer.usage.model_extra["calls"] == 1
    assert answer.usage.model_extra["cycles"] > answer.usage.model_extra["instructions"] > 0
    assert answer.model == "llama_cpp"


async def test_one_text_and_tokens(openai_client: openai.AsyncOpenAI, embedder: Served) -> None:
    whole = vectors_of(await openai_client.embeddings.create(model="llama_cpp", input=TEXTS[0]))
    async with embedder.client("carol") as client:
        tokens = (await client.post("/tokenize", json={"content": TEXTS[0]})).raise_for_status().json()["tokens"]
    framed = [2, *tokens, 3]
    as_tokens = vectors_of(await openai_client.embeddings.create(model="llama_cpp", input=framed))
    lists = vectors_of(await openai_client.embeddings.create(model="llama_cpp", input=[framed, tokens]))
    assert np.array_equal(whole, as_tokens)
    assert distance(lists[:1], whole) < NEAR
    assert distance(lists[1:], whole) > NEAR  # tokens are read as they are, without a frame


async def test_dimensions_are_cut_and_of_length_one(openai_client: openai.AsyncOpenAI) -> None:
    (whole,) = vectors_of(await openai_client.embeddings.create(model="llama_cpp", input="hello"))
    (short,) = vectors_of(await openai_client.embeddings.create(model="llama_cpp", input="hello", dimensions=8))
    assert len(short) == 8
    assert np.allclose(short, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="vectors have 64") as told:
        await openai_client.embeddings.create(model="llama_cpp", input="hello", dimensions=65)
    assert told.value.param == "dimensions"


async def test_many_texts_are_several_calls_in_order(openai_client: openai.AsyncOpenAI, model: Path) -> None:
    texts = ["cat " * (1 + n % 7) + "abcdefg"[n % 7] for n in range(150)]
    answer = await openai_client.embeddings.create(model="llama_cpp", input=texts)
    assert distance(vectors_of(answer), as_llama_cpp_python(model, texts)) < NEAR
    assert answer.usage.model_extra == {**(answer.usage.model_extra or {}), "calls": 3}


async def test_a_text_that_is_too_long(openai_client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        await openai_client.embeddings.create(model="llama_cpp", input=["short", "the " * (N_CTX + 1)])
    body: Any = told.value.body
    assert (told.value.code, told.value.param) == ("context_length_exceeded", "input[1]")
    assert (body["n_prompt_tokens"], body["n_ctx"]) == (N_CTX + 3, N_CTX)
    # One that is far too long is not tokenized to its end.
    with pytest.raises(openai.BadRequestError) as told:
        await openai_client.embeddings.create(model="llama_cpp", input="the " * 200_000)
    assert (told.value.code, told.value.param) == ("context_length_exceeded", "input")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": 5}, "input"),
        ({"input": True}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [[1], [True]]}, "input[1]"),
        ({"input": [1, -1]}, "input"),
        ({"input": [1, 2**40]}, "input"),
        ({"input": [1, 5000]}, "input"),
        ({"input": [["a"]]}, "input[0]"),
        ({"input": [[[[[1]]]]]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "many"}, "dimensions"),
        ({"input": "a", "dimensions": 2**70}, "dimensions"),
    ],
)
async def test_what_does_not_fit(embedder: Served, body: dict[str, Any], param: str) -> None:
    async with embedder.client("alice") as client:
        answer = await client.post("/v1/embeddings", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert len(error["message"]) < 400


async def test_odd_texts_have_vectors(openai_client: openai.AsyncOpenAI) -> None:
    odd = ["\x00", "\U0001f600" * 50, "[SEP][CLS]", " ", "\ud800".encode("utf-8", "replace").decode(), "ä\u0301" * 30]
    found = vectors_of(await openai_client.embeddings.create(model="llama_cpp", input=odd))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/canisters/llama_cpp/v1/embeddings"])
async def test_where_it_is(embedder: Served, path: str) -> None:
    async with embedder.client("alice") as client:
        answer = (await client.post(path, json={"input": "hello", "encoding_format": "base64"})).raise_for_status()
        (item,) = answer.json()["data"]
        assert len(np.frombuffer(base64.b64decode(item["embedding"]), "<f4")) == 64
        assert int(answer.headers["X-IC-Instructions"]) > 0
        assert (await client.get(path)).status_code == 405


async def test_callers_at_the_same_time_get_their_own(embedder: Served, model: Path) -> None:
    expected = as_llama_cpp_python(model, TEXTS)

    async def ask(n: int) -> NDArray[np.float32]:
        async with connected(embedder, f"caller-{n}") as client:
            return vectors_of(await client.embeddings.create(model="llama_cpp", input=TEXTS[n % 4]))

    found = await asyncio.gather(*(ask(n) for n in range(12)))
    assert all(distance(one, expected[n % 4 : n % 4 + 1]) < NEAR for n, one in enumerate(found))


async def test_without_a_key(embedder: Served) -> None:
    async with httpx.AsyncClient(base_url=embedder.url) as client:
        answer = await client.post("/v1/embeddings", json={"input": "hello"}, headers={"Authorization": "Bearer none"})
    assert answer.status_code == 401


# -- the kind of a model


async def test_a_model_for_embeddings_tells_and_does_not_chat(
    openai_client: openai.AsyncOpenAI, embedder: Served
) -> None:
    (listed,) = (await openai_client.models.list()).data
    assert listed.model_extra is not None
    assert listed.model_extra["capabilities"] == ["embedding"]
    assert listed.model_extra["meta"]["pooling"] == "mean"
    asks = [
        openai_client.chat.completions.create(model="llama_cpp", messages=[{"role": "user", "content": "Hi"}]),
        openai_client.completions.create(model="llama_cpp", prompt="Hi"),
        openai_client.responses.create(model="llama_cpp", input="Hi"),
    ]
    for asked in asks:
        with pytest.raises(openai.APIStatusError, match="is an embedding model") as told:
            await asked
        assert told.value.status_code == 501
        assert told.value.response.headers["x-should-retry"] == "false"
        assert told.value.type == "not_supported_error"
    async with embedder.client() as client:
        answer = await client.post("/canisters/llama_cpp/run_update", json={"args": ["-p", "Hi", "-n", "1"]})
        assert "is an embedding model" in answer.json()["Err"]["error"]
        assert (await client.get("/readyz")).status_code == 200
        props = (await client.get("/props")).json()
        assert props["chat_template"] == ""


async def test_a_model_for_chats_makes_none(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="makes no embeddings") as told:
        await client.embeddings.create(model="llama_cpp", input="hello")
    assert (told.value.status_code, told.value.type) == (501, "not_supported_error")
    assert told.value.response.headers["x-should-retry"] == "false"
    (listed,) = (await client.models.list()).data
    assert (listed.model_extra or {})["capabilities"] == ["completion"]


# -- llama.cpp's own form, and Ollama's


async def test_llama_cpps_own_form(embedder: Served, model: Path) -> None:
    async with embedder.client("alice") as client:

        async def ask(path: str, **body: Any) -> Any:
            return (await client.post(path, json=body)).raise_for_status().json()

        (first, second) = await ask("/embedding", content=["hello", "world"])
        assert (first["index"], second["index"]) == (0, 1)
        assert distance(np.array(first["embedding"], np.float32), as_llama_cpp_python(model, ["hello"])) < NEAR
        (raw,) = await ask("/embedding", content="hello", embd_normalize=-1)
        expected = as_llama_cpp_python(model, ["hello"])
        assert np.allclose(raw["embedding"], expected, rtol=1e-4, atol=1e-5)
        assert await ask("/embeddings", content="hello") == await ask("/embedding", input="hello")
        refused = await client.post("/embedding", json={})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "content")


async def test_ollamas_client(embedder: Served, model: Path) -> None:
    key = embedder.host.keys.create("bob", replace=True)
    # Too long a text is cut off so that what frames it stays; or refused, if the client wants that.
    long, cut_off = "the " * (N_CTX + 9), "the " * (N_CTX - 2)
    async with ollama.AsyncClient(embedder.url, headers={"Authorization": f"Bearer {key}"}) as client:
        answer = await client.embed("llama_cpp:latest", TEXTS)
        one = await client.embeddings("llama_cpp", TEXTS[0])
        short = await client.embed("llama_cpp", "hello", dimensions=5)
        nothing = await client.embed("llama_cpp", "")
        both = np.array((await client.embed("llama_cpp", [long, cut_off])).embeddings, np.float32)
        with pytest.raises(ollama.ResponseError, match="exceeds the available context size"):
            await client.embed("llama_cpp", long, truncate=False)
        shown = await client.show("llama_cpp")
    found = np.array(answer.embeddings, np.float32)
    assert distance(found, as_llama_cpp_python(model, TEXTS)) < NEAR
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (answer.prompt_eval_count, answer.model) == (4 + 8 + 3 + 102, "llama_cpp:latest")
    assert np.allclose(one.embedding, as_llama_cpp_python(model, TEXTS[:1])[0], rtol=1e-4, atol=1e-5)
    assert len(short.embeddings[0]) == 5
    assert not nothing.embeddings
    assert distance(both[:1], both[1:]) < NEAR
    assert shown.capabilities == ["embedding"]


# -- life


async def test_it_is_loaded_again_after_a_restart(model: Path, tmp_path: Path) -> None:
    async with served(tmp_path) as server, server.client() as controller:
        await load(controller, model)
        before = (await controller.post("/v1/embeddings", json={"input": "hello"})).raise_for_status().json()["data"]
    async with served(tmp_path) as server, server.client() as controller:
        await server.host.default.model.loaded()
        assert server.host.default.model.trials.n_tried == 0
        after = (await controller.post("/v1/embeddings", json={"input": "hello"})).raise_for_status().json()["data"]
        assert after == before


async def test_limits_of_a_call(model: Path, tmp_path: Path) -> None:
    """Where calls trap at the limit, texts go into as many calls as they need, and one too long for a call is
    refused for good.
    """
    settings = {"budget_policy": "trap", "instruction_limit": 100_000_000}
    async with served(tmp_path, **settings) as server, server.client() as controller:
        await load(controller, model)
        ask = {"input": ["the cat sat on the mat " * 6] * 4}
        answer = (await controller.post("/v1/embeddings", json=ask)).raise_for_status().json()
        assert answer["usage"]["calls"] > 1
        refused = await controller.post("/v1/embeddings", json={"input": "the " * 500})
        assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
        assert refused.json()["error"]["code"] == "IC0522"


# -- pure


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
        (["a", [3]], ["a", (3,)]),
    ],
)
def test_texts(value: Any, texts: list[object]) -> None:
    assert texts_of(value) == texts


def test_texts_name_their_field() -> None:
    with pytest.raises(DoorError) as told:
        texts_of(["a", {}], "given")
    assert told.value.param == "given[1]"


def test_norms() -> None:
    vector = np.array([3, -4], np.float32)
    assert numbers(scaled(vector, 2)) == numbers(np.array([0.6, -0.8], np.float32))
    assert scaled(vector, -1) is vector
    assert np.allclose(scaled(vector, 0), [24570, -32760])
    assert np.allclose(scaled(vector, 1), [3 / 7, -4 / 7])
    zeros = np.zeros(2, np.float32)
    assert all(np.array_equal(scaled(zeros, norm), zeros) for norm in (0, 1, 2, 3))
    assert np.allclose(cut(np.array([3, 4, 5], np.float32), 2), [0.6, 0.8])
