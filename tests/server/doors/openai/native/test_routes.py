"""llama.cpp's own routes against a real server, as curl and llama.vim call them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine import tiny_models
from tests.engine.gguf_writer import Plain
from tests.server.served import CHAT, Served, served
from tests.traces import until

pytestmark = pytest.mark.anyio

PROMPT = CHAT.format("Who are you?")
FIXED: dict[str, Any] = {"temperature": 0, "n_predict": 25}


@pytest.fixture
async def bob(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client("bob") as made:
        yield made


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def events(client: httpx.AsyncClient, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = await client.post(path, json={**body, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream"
    lines = [line for line in answer.text.split("\n") if line]
    assert all(line.startswith("data: {") for line in lines), answer.text
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_an_answer_and_the_same_as_it_comes(bob: httpx.AsyncClient) -> None:
    whole = await post(bob, "/completion", prompt=PROMPT, **FIXED)
    assert whole["content"].startswith("I am a tiny chat model")
    assert {key: whole[key] for key in ("index", "stop", "model", "tokens", "truncated", "tokens_evaluated")} == {
        "index": 0,
        "stop": True,
        "model": "llama_cpp",
        "tokens": [],
        "truncated": False,
        "tokens_evaluated": 14,
    }
    assert (whole["generation_settings"]["n_predict"], whole["generation_settings"]["temperature"]) == (25, 0)
    assert whole["timings"]["predicted_n"] == whole["tokens_predicted"] > 5
    *short, last = await events(bob, "/completions", prompt=PROMPT, **FIXED)
    assert "".join(told["content"] for told in short) == whole["content"]
    assert (last["stop"], last["stop_type"], last["content"]) == (True, whole["stop_type"], "")
    tokens = [token for told in short for token in told["tokens"]]
    again = await post(bob, "/completion", prompt=PROMPT, return_tokens=True, **FIXED)
    assert again["tokens"] == tokens
    text = (await post(bob, "/detokenize", tokens=tokens))["content"]
    assert text.removesuffix("<|im_end|>") == whole["content"]


async def test_prompts_of_tokens_are_those_of_their_text(bob: httpx.AsyncClient) -> None:
    tokens = (await post(bob, "/tokenize", content=PROMPT, add_special=True))["tokens"]
    wanted = (await post(bob, "/completion", prompt=PROMPT, **FIXED))["content"]
    for prompt in (tokens, {"prompt_string": PROMPT}, [*tokens[:-3], *tokens[-3:]]):
        answer = await post(bob, "/completion", prompt=prompt, **FIXED)
        assert (answer["content"], answer["tokens_evaluated"]) == (wanted, len(tokens))
        assert answer["prompt"] == PROMPT
    first, second = PROMPT.split("?")
    mixed = [*(await post(bob, "/tokenize", content=first, add_special=True))["tokens"], f"?{second}"]
    answer = await post(bob, "/completion", prompt=mixed, **FIXED)
    assert (answer["content"], answer["prompt"]) == (wanted, PROMPT)


async def test_a_list_of_prompts_gets_a_list_of_answers(bob: httpx.AsyncClient) -> None:
    prompts = [PROMPT, "Once upon", [1, 2, 3], {"prompt_string": PROMPT}]
    found = await post(bob, "/completion", prompt=prompts, temperature=0, n_predict=5)
    assert [one["index"] for one in found] == [0, 1, 2, 3]
    assert found[0]["content"] == found[3]["content"] != found[1]["content"]
    told = await events(bob, "/completion", prompt=prompts, temperature=0, n_predict=5)
    for index, one in enumerate(found):
        assert "".join(part["content"] for part in told if part["index"] == index) == one["content"]
    assert isinstance(await post(bob, "/completion", prompt=["Once"], n_predict=1), list)
    several = await post(bob, "/completion", prompt=PROMPT, n_predict=3, n_cmpl=2, seed=5)
    assert [(one["index"], one["generation_settings"]["seed"]) for one in several] == [(0, 5), (1, 6)]


async def test_a_key_means_one_answer(bob: httpx.AsyncClient) -> None:
    body = {"prompt": PROMPT, "n_predict": 8, "temperature": 2}
    first, again = [
        (await bob.post("/completion", json=body, headers={"Idempotency-Key": "once"})).json() for _ in range(2)
    ]
    assert (again["content"], again["generation_settings"]["seed"]) == (
        first["content"],
        first["generation_settings"]["seed"],
    )


async def test_probabilities_of_tokens(bob: httpx.AsyncClient) -> None:
    whole = await post(bob, "/completion", prompt=PROMPT, n_probs=3, **{**FIXED, "n_predict": 4})
    found = whole["completion_probabilities"]
    assert len(found) == 4
    for one in found:
        assert len(one["top_logprobs"]) == 3
        assert one["logprob"] == one["top_logprobs"][0]["logprob"] <= 0  # greedy
        assert bytes(one["bytes"]).decode() == one["token"]
    *short, _ = await events(bob, "/completion", prompt=PROMPT, n_probs=3, **{**FIXED, "n_predict": 4})
    assert [one for told in short for one in told.get("completion_probabilities", [])] == found


async def test_what_is_wanted_alone_and_what_comes_on_the_way(bob: httpx.AsyncClient) -> None:
    wanted = ["content", "timings/prompt_n", "generation_settings/n_predict", "nothing"]
    answer = await post(bob, "/completion", prompt=PROMPT, response_fields=wanted, **FIXED)
    assert list(answer) == wanted[:3]
    told = await events(bob, "/completion", prompt=PROMPT, return_progress=True, timings_per_token=True, **FIXED)
    assert told[-1]["timings"]["predicted_n"] == told[-1]["tokens_predicted"]
    assert any("prompt_progress" in part for part in told)


async def test_probabilities_behind_the_samplers(bob: httpx.AsyncClient) -> None:
    asked = {"prompt": PROMPT, "n_predict": 4, "n_probs": 5, "post_sampling_probs": True, "seed": 3}
    told = await post(bob, "/completion", **asked, top_k=3, top_p=1, min_p=0, temperature=2, ignore_eos=True)
    assert len(told["completion_probabilities"]) == 4
    for one in told["completion_probabilities"]:
        tops = one["top_probs"]
        assert {top["id"]: top["prob"] for top in tops}[one["id"]] == one["prob"]
        assert len(tops) == 3
        assert sum(top["prob"] for top in tops) == pytest.approx(1)
        assert [top["prob"] for top in tops] == sorted((top["prob"] for top in tops), reverse=True)
    greedy = await post(bob, "/completion", **asked, temperature=0)
    assert {one["prob"] for one in greedy["completion_probabilities"]} == {1.0}
    raw = await post(bob, "/completion", **{**asked, "post_sampling_probs": False}, temperature=0)
    assert {len(one["top_logprobs"]) for one in raw["completion_probabilities"]} == {5}


async def test_stop_words_and_limits_are_told_apart(bob: httpx.AsyncClient) -> None:
    answer = await post(bob, "/completion", prompt=PROMPT, stop=[" chat"], **FIXED)
    assert (answer["content"], answer["stop_type"], answer["stopping_word"]) == ("I am a tiny", "word", " chat")
    answer = await post(bob, "/completion", prompt=PROMPT, temperature=0, n_predict=3)
    assert (answer["stop_type"], answer["tokens_predicted"]) == ("limit", 3)
    answer = await post(bob, "/completion", prompt=PROMPT, temperature=0, n_predict=0)
    assert (answer["content"], answer["tokens_predicted"]) == ("", 0)


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({}, "prompt", "text, or a list"),
        ({"prompt": []}, "prompt", "1 to 256"),
        ({"prompt": [2_000_000_000]}, "prompt", "2000000000 is no token"),
        ({"prompt": "x", "n_probs": -1}, "n_probs", "greater than or equal to 0"),
        ({"prompt": "x", "n_cmpl": 99}, "n_cmpl", "has 4 slots"),
        ({"prompt": {"prompt_string": "x", "multimodal_data": ["aGk="]}}, "prompt", "image input is not supported"),
        ({"prompt": "word " * 3000}, None, "exceeds the available context size"),
    ],
)
async def test_bad_requests_are_told(bob: httpx.AsyncClient, body: Any, param: str | None, told: str) -> None:
    for stream in (False, True):
        answer = await bob.post("/completion", json={**body, "stream": stream})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert told in error["message"]
        if param is not None:
            assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/completion", {"prompt": ["x"] * 257}, "1 to 256 prompts"),
        ("/completion", {"prompt": "x", "response_fields": ["a"] * 101}, "at most 100"),
        ("/completion", {"prompt": "x", "n_probs": 10**9}, "less than or equal to 100"),
        ("/completion", {"prompt": "x", "stop": ["y"] * 50_000}, "at most 256"),
        ("/completion", {"prompt": [1] * 50_000}, "exceeds the available context size"),
        ("/infill", {"input_prefix": "", "input_suffix": "", "input_extra": [{"text": "x"}] * 1001}, "at most 1000"),
        ("/tokenize", {"content": [1] * 100_001}, "100000 values"),
        ("/tokenize", {"content": "a b " * 60_000, "with_pieces": True}, "at most 100000 are told with their texts"),
        ("/tokenize", {"content": "a b " * 600_000}, "at most 1000000 are told at once: send it in parts"),
        ("/detokenize", {"tokens": [10**12]}, "tokens[0]"),
    ],
)
async def test_what_is_too_much_is_refused_in_a_sentence(
    bob: httpx.AsyncClient, path: str, body: Any, told: str
) -> None:
    answer = await bob.post(path, json=body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]
    assert len(answer.content) < 1000


async def test_who_goes_away_ends_all_prompts(server: Served, bob: httpx.AsyncClient) -> None:
    engine = server.host.default.model.engine
    assert engine is not None
    body = {"prompt": [PROMPT, "Once", "Twice"], "ignore_eos": True, "stream": True}
    async with bob.stream("POST", "/completion", json=body) as answer:
        assert answer.status_code == 200
        await anext(answer.aiter_lines())
    await until(lambda: engine.stats().n_running == 0)


async def test_tokens_of_texts(bob: httpx.AsyncClient) -> None:
    plain = (await post(bob, "/tokenize", content="Who are you?"))["tokens"]
    assert all(isinstance(token, int) for token in plain)
    pieces = (await post(bob, "/canisters/llama_cpp/tokenize", content="Who are you?", with_pieces=True))["tokens"]
    assert [piece["id"] for piece in pieces] == plain
    assert "".join(piece["piece"] for piece in pieces).strip() == "Who are you?"
    many = "Who are you?" * 4000
    pieces = (await post(bob, "/tokenize", content=many, with_pieces=True))["tokens"]
    assert len(pieces) > 10_000
    assert [piece["id"] for piece in pieces] == (await post(bob, "/tokenize", content=many))["tokens"]
    assert (await post(bob, "/tokenize"))["tokens"] == []
    assert len((await post(bob, "/tokenize", content="<|im_end|>"))["tokens"]) == 1
    assert len((await post(bob, "/tokenize", content="<|im_end|>", parse_special=False))["tokens"]) > 1
    answer = await bob.post("/tokenize", json={"content": {"a": 1}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "content")
    answer = await bob.post("/detokenize", json={"tokens": [1, -1]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tokens[1]")


async def test_health_is_told_in_both_forms(server: Served, bob: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=server.url) as nobody:
        assert (await nobody.get("/health")).json() == {"Ok": {"status_code": 200}, "status": "ok"}
        assert (await nobody.post("/health")).json() == {"Ok": {"status_code": 200}}
        assert (await nobody.get("/canisters/llama_cpp/health")).json() == {"Ok": {"status_code": 200}}
        assert (await nobody.get("/v1/health")).json() == {"status": "ok"}
        answer = await nobody.post("/completion", json={"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


async def test_slots_and_what_is_not_offered(bob: httpx.AsyncClient) -> None:
    slots = (await bob.get("/slots")).json()
    assert [slot["id"] for slot in slots] == [0, 1, 2, 3]
    assert {slot["n_ctx"] for slot in slots} == {1024}
    for path in ("/slots/0?action=save", "/v1/rerank", "/rerank"):
        answer = await bob.post(path, json={})
        assert (answer.status_code, answer.json()["error"]["type"]) == (501, "not_supported_error")
    answer = await bob.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
    assert (answer.status_code, "no prefix token" in answer.json()["error"]["message"]) == (501, True)


async def test_what_llama_vim_asks_for(tmp_path: Path) -> None:
    names = {"fim_pre": 300, "fim_suf": 301, "fim_mid": 302}
    changes: dict[str, Plain] = {f"tokenizer.ggml.{name}_token_id": token for name, token in names.items()}
    model = tiny_models.llama_model(tmp_path / "made.gguf", changes=changes)
    body = {
        "input_prefix": "def f(a):\n",
        "input_suffix": "    return a\n",
        "input_extra": [{"text": "x = 1", "filename": "x.py", "time": 1}],
        "prompt": "    a",
        "n_predict": 8,
        "n_indent": 4,
        "top_k": 40,
        "top_p": 0.9,
        "stream": False,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 60_000,
        "response_fields": ["content", "timings/prompt_n", "timings/predicted_n", "tokens_cached", "truncated"],
    }
    async with served(tmp_path / "server") as server, server.client() as client:
        async with httpx.AsyncClient(base_url=server.url) as nobody:
            answer = await nobody.get("/v1/health")
            assert (answer.status_code, answer.json()["error"]["message"]) == (503, "Loading model")
        (await client.put("/canisters/llama_cpp/files/made.gguf", content=model.read_bytes())).raise_for_status()
        loaded = await client.post("/load_model", json={"args": ["--model", "made.gguf", "-c", "256"]})
        assert loaded.status_code == 200, loaded.text
        answer = await client.post("/infill", json=body)
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == body["response_fields"]
        warm = await client.post("/infill", json={**body, "n_predict": 0, "prompt": ""})
        assert warm.json()["timings/predicted_n"] == 0
        for change, param in (({"input_prefix": None}, "input_prefix"), ({"prompt": 7}, "prompt")):
            wrong = await client.post("/infill", json={**body, **change})
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, param)
        asked = {"prompt": body["input_prefix"], "suffix": body["input_suffix"], "max_tokens": 4, "temperature": 0}
        text = (await client.post("/v1/completions", json={**asked, "echo": True})).json()["choices"][0]["text"]
        plain = {"input_prefix": asked["prompt"], "input_suffix": asked["suffix"], "n_predict": 4, "temperature": 0}
        assert text == asked["prompt"] + (await client.post("/infill", json=plain)).json()["content"]
        filled = await client.post("/api/generate", json={"prompt": "a", "suffix": "b", "options": {"num_predict": 2}})
        assert filled.status_code == 200
        assert "insert" in (await client.post("/api/show", json={})).json()["capabilities"]
