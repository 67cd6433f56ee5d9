"""What REST offers to who talks in turns: the model's properties, its template applied, chats kept under names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.model_file.chat_template import CHATML
from tests.engine import tiny_models
from tests.engine.gguf_writer import Plain
from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

ASK = {"messages": [{"role": "user", "content": "Who are you?"}]}
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{{ chat_template_extra }}"
)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("conversations"), with_model=True) as started:
        yield started


@pytest.fixture(scope="module")
async def alice(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client("alice") as client:
        yield client


async def load(client: httpx.AsyncClient, folder: Path, template: str | None) -> dict[str, Any]:
    """Load a tiny model with this template; its properties."""
    changes: dict[str, Plain] = {} if template is None else {"tokenizer.chat_template": template}
    model = tiny_models.llama_model(folder / "made.gguf", changes=changes)
    await client.put("/canisters/llama_cpp/files/models/made.gguf", content=model.read_bytes())
    loaded = await client.post("/load_model", json={"args": ["--model", "models/made.gguf", "-c", "128"]})
    assert loaded.status_code == 200, loaded.text
    told: dict[str, Any] = (await client.get("/props")).raise_for_status().json()
    return told


async def test_the_shipped_model(server: Served, alice: httpx.AsyncClient) -> None:
    told = (await alice.get("/canisters/llama_cpp/props")).raise_for_status().json()
    assert told["model_path"] == "models/llama-canister-tiny.gguf"
    settings = told["default_generation_settings"]
    assert settings["n_ctx"] == 1024
    assert {key: settings["params"][key] for key in ("temperature", "top_k", "seed", "n_predict")} == {
        "temperature": 0.8,
        "top_k": 40,
        "seed": 0xFFFFFFFF,
        "n_predict": -1,
    }
    assert (told["model_alias"], told["total_slots"] > 0) == ("llama_cpp", True)
    assert told["build_info"].startswith("llama-canister ")
    assert told["chat_template_caps"] == {
        "supports_system_role": True,
        "supports_tools": False,
        "supports_tool_calls": False,
        "supports_parallel_tool_calls": False,
        "supports_preserve_reasoning": False,
        "supports_thinking_switch": False,
    }
    assert told["chat_template_source"] == "model"
    assert told["eos_token"] == "<|im_end|>"
    assert "<|im_start|>" in told["chat_template"]
    prompt = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    for path in ("/apply-template", "/canisters/llama_cpp/apply-template"):
        answer = await alice.post(path, json=ASK)
        run = (await alice.post("/run_query", json={"args": ["-p", prompt, "-n", "1"]})).json()["Ok"]
        assert answer.json() == {"prompt": prompt, "n_tokens": run["n_prompt_tokens"]}
        assert int(answer.headers["x-ic-instructions"]) > 0
    without = await alice.post("/apply-template", json={**ASK, "add_generation_prompt": False})
    assert without.json()["prompt"] == "<|im_start|>user\nWho are you?<|im_end|>\n"


async def test_who_may_not_chat_is_refused(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.url) as anonymous:
        for verb, path in (
            ("GET", "/props"),
            ("POST", "/apply-template"),
            ("GET", "/canisters/llama_cpp/chats"),
            ("GET", "/canisters/llama_cpp/chats/x"),
            ("PUT", "/canisters/llama_cpp/chats/x"),
            ("DELETE", "/canisters/llama_cpp/chats/x"),
        ):
            refused = await anonymous.request(verb, path, content=b"no JSON")
            assert (refused.status_code, refused.json()) == (401, {"Err": {"Other": "Access Denied"}}), path


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content"),
        ({**ASK, "add_generation_prompt": "yes"}, "add_generation_prompt"),
        ({**ASK, "chat_template_kwargs": [1]}, "chat_template_kwargs"),
    ],
)
async def test_a_wrong_body_is_told(alice: httpx.AsyncClient, body: dict[str, object], told: str) -> None:
    answer = await alice.post("/apply-template", json=body)
    assert answer.status_code == 400
    assert told in answer.json()["reject_message"]
    assert '"Who are you?"' in answer.json()["reject_message"]  # an example


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"messages":[' + b",".join([b"{}"] * 9_000) + b"]}", "field messages.0.role: Field required."),
        (b'{"messages":[' + b",".join([b"{}"] * 300_000) + b"]}", "more than 100000 values"),
        (
            b'{"messages":[' + b",".join([b'{"role":"u"}'] * 10_001) + b"]}",
            "most 10000 items after validation, not 10001",
        ),
        (b'{"messages":[{"role":"u"}],"tools":[' + b",".join([b"1"] * 1_001) + b"]}", "at most 1000 items"),
        (b'{"messages":[{"role":"u","content":"x"}],"chat_template_kwargs":{"a":NaN}}', "Invalid JSON"),
    ],
)
async def test_a_body_that_is_too_much_is_told_in_one_sentence(
    alice: httpx.AsyncClient, body: bytes, told: str
) -> None:
    answer = await alice.post("/apply-template", content=body)
    assert answer.status_code == 400
    assert told in answer.json()["reject_message"]
    assert len(answer.content) < 1000


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e999"])
async def test_numbers_that_are_not_in_json_are_refused(alice: httpx.AsyncClient, number: str) -> None:
    path = "/canisters/llama_cpp/chats/numbers"
    body = f'{{"messages":[],"settings":{{"temp":[{number}]}}}}'
    answer = await alice.put(path, content=body)
    assert answer.status_code == 400
    assert "Invalid JSON" in answer.json()["reject_message"]
    assert (await alice.get(path)).status_code == 404


async def test_a_wrong_verb_is_told(alice: httpx.AsyncClient) -> None:
    answer = await alice.get("/apply-template")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = await alice.post("/canisters/llama_cpp/chats/x", json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, PUT, DELETE, HEAD")


async def test_templates_of_other_models(tmp_path: Path) -> None:
    async with served(tmp_path / "server") as server, server.client() as client:
        nothing = await client.post("/apply-template", json=ASK)
        assert nothing.status_code == 404
        assert "No model is loaded" in nothing.json()["Err"]["Other"]

        told = await load(client, tmp_path, LLAMA)
        assert (told["bos_token"], told["eos_token"], told["chat_template_source"]) == ("<s>", "</s>", "model")
        body = {**ASK, "chat_template_kwargs": {"chat_template_extra": "!"}}
        made = (await client.post("/apply-template", json=body)).json()
        # The tokenizer puts BOS in front, so the template's own is left out, and counted once.
        assert made["prompt"] == "<user>Who are you?</s><assistant>!"
        run = (await client.post("/run_query", json={"args": ["-p", made["prompt"], "-n", "1"]})).json()["Ok"]
        assert run["n_prompt_tokens"] == made["n_tokens"]
        assert run["conversation"].count("<s>") == 0

        await load(client, tmp_path, "{{ raise_exception('no') }}")
        refused = await client.post("/apply-template", json=ASK)
        assert refused.status_code == 400
        assert refused.json() == {"Err": {"Other": "the model's chat template refuses these messages: no"}}
        await load(client, tmp_path, "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
        endless = await client.post("/apply-template", json=ASK)
        assert endless.status_code == 400
        assert endless.json() == {"Err": {"Other": "the model's chat template takes too much time"}}

        told = await load(client, tmp_path, None)
        assert (told["chat_template"], told["chat_template_source"]) == ("", "none")
        assert not any(told["chat_template_caps"].values())
        none = await client.post("/apply-template", json=ASK)
        assert none.status_code == 404
        assert "has no chat template" in none.json()["Err"]["Other"]


async def test_a_model_with_the_tokens_of_chatml_speaks_it(tmp_path: Path) -> None:
    tokens = list(tiny_models.VOCABULARY["tokenizer.ggml.tokens"])  # type: ignore[arg-type]
    tokens[300] = "<|im_start|>"
    types = list(tiny_models.VOCABULARY["tokenizer.ggml.token_type"])  # type: ignore[arg-type]
    types[300] = 3  # control
    changes: dict[str, Plain] = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": type(tiny_models.VOCABULARY["tokenizer.ggml.token_type"])("i", types),  # type: ignore[call-arg]
    }
    model = tiny_models.llama_model(tmp_path / "chatml.gguf", changes=changes)
    async with served(tmp_path / "server") as server, server.client() as client:
        await client.put("/canisters/llama_cpp/files/models/made.gguf", content=model.read_bytes())
        (await client.post("/load_model", json={"args": ["--model", "models/made.gguf"]})).raise_for_status()
        told = (await client.get("/props")).json()
        assert (told["chat_template"], told["chat_template_source"]) == (CHATML, "chatml")
        made = (await client.post("/apply-template", json=ASK)).json()
        assert made["prompt"] == "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"


async def test_chats_are_kept_under_names_and_are_their_callers_own(server: Served, alice: httpx.AsyncClient) -> None:
    path = "/canisters/llama_cpp/chats"
    talk = {
        "messages": [{"role": "user", "content": "Hé\n"}, {"role": "assistant", "content": "😀", "of": "me"}],
        "settings": {"temp": 0.5},
    }
    assert (await alice.get(path)).json() == {"chats": []}
    kept = (await alice.put(f"{path}/first", json=talk)).raise_for_status().json()
    args = ["--prompt-cache", "chat-first", "--prompt-cache-all", "-p", "Hello", "-n", "1"]
    (await alice.post("/run_update", json={"args": args})).raise_for_status()
    found = (await alice.get(f"{path}/first")).json()
    assert found["modified_ns"] >= kept["modified_ns"]
    assert {key: found[key] for key in talk} == talk
    (await alice.put(f"{path}/größer.2", json={"messages": []})).raise_for_status()
    listed = (await alice.get(path)).json()["chats"]
    assert [(chat["name"], chat["cache_bytes"] > 0) for chat in listed] == [("größer.2", False), ("first", True)]

    async with server.client("bob") as bob:
        assert (await bob.get(path)).json() == {"chats": []}
        assert (await bob.get(f"{path}/first")).status_code == 404
        assert (await bob.delete(f"{path}/first")).status_code == 404

    assert (await alice.delete(f"{path}/first")).json() == {}
    assert [chat["name"] for chat in (await alice.get(path)).json()["chats"]] == ["größer.2"]
    gone = (await alice.post("/run_query", json={"args": args})).json()["Ok"]
    assert gone["n_prompt_tokens_cached"] == 0
    again = await alice.delete(f"{path}/first")
    assert (again.status_code, again.json()) == (404, {"Err": {"Other": "there is no chat 'first'"}})
    (await alice.delete(f"{path}/größer.2")).raise_for_status()


async def test_chats_and_folders_come_by_pages(server: Served, alice: httpx.AsyncClient) -> None:
    path = "/canisters/llama_cpp/chats"
    names = [f"page-{n}" for n in range(5)]
    for name in names:
        (await alice.put(f"{path}/{name}", json={"messages": []})).raise_for_status()
    found, asked = [], {"limit": 2}
    for n_there in (2, 2, 1):
        page = (await alice.get(path, params=asked)).raise_for_status().json()
        assert len(page["chats"]) == n_there
        found += [chat["name"] for chat in page["chats"]]
        asked["after"] = page["next"]
    assert found == [*reversed(names)]
    assert page["next"] is None
    assert "next" not in (await alice.get(path)).json()
    async with server.client() as controller:
        who = (await alice.get("/canisters/llama_cpp/whoami")).json()
        folder = f"/canisters/llama_cpp/files/.canister_cache/{who}/chats/"
        first = (await controller.get(folder, params={"limit": 3})).raise_for_status().json()
        rest = (await controller.get(folder, params={"after": first["next"]})).raise_for_status().json()
        assert [entry["name"] for entry in first["entries"] + rest["entries"]] == [f"{name}.json" for name in names]
    wrong = await alice.get(path, params={"limit": 0})
    assert (wrong.status_code, "limit: '0' is no number" in wrong.text) == (400, True)
    for name in names:
        (await alice.delete(f"{path}/{name}")).raise_for_status()


@pytest.mark.parametrize("name", ["..", ".hidden", "-x", "a b", "x" * 61, "a%2Fb", "%00"])
async def test_what_is_no_name_of_a_chat(alice: httpx.AsyncClient, name: str) -> None:
    answer = await alice.put(f"/canisters/llama_cpp/chats/{name}", json={"messages": []})
    assert answer.status_code in (400, 404, 405), answer.text
    assert (await alice.get("/canisters/llama_cpp/chats")).json() == {"chats": []}


async def test_a_chat_that_no_prompt_cache_can_have_the_name_of(server: Served, alice: httpx.AsyncClient) -> None:
    path = "/canisters/llama_cpp/chats"
    refused = await alice.put(f"{path}/x.icppfmt", json={"messages": []})
    assert refused.status_code == 400
    assert ".icppfmt is kept for files beside prompt caches" in refused.json()["Err"]["Other"]
    # Earlier versions took it; and who may write files may have put anything into the folder.
    key = server.host.keys.get("alice")
    assert key is not None
    folder = f".canister_cache/{key.principal}/chats"
    async with server.client() as controller:
        for name in ("x.icppfmt.json", "y" * 247, "folder.json/z.json", "notes.txt"):
            stored = await controller.put(f"/canisters/llama_cpp/files/{folder}/{name}", content=b'{"messages":[]}')
            assert stored.status_code == 200, stored.text
    (await alice.put(f"{path}/x", json={"messages": []})).raise_for_status()
    args = ["--prompt-cache", "chat-x", "--prompt-cache-all", "-p", "Hello", "-n", "1"]
    (await alice.post("/run_update", json={"args": args})).raise_for_status()
    listed = (await alice.get(path)).raise_for_status().json()["chats"]
    assert sorted(chat["name"] for chat in listed) == ["x", "x.icppfmt"]
    assert (await alice.delete(f"{path}/folder")).status_code == 404
    assert (await alice.delete(f"{path}/x.icppfmt")).json() == {}
    # The file beside the prompt cache of x has the name that a cache of x.icppfmt would have: it stays.
    kept = (await alice.post("/run_query", json={"args": args})).json()["Ok"]
    assert kept["n_prompt_tokens_cached"] > 0
    assert server.host.default.stable.stat(f".canister_cache/{key.principal}/sessions/chat-x.icppfmt") is not None
    assert (await alice.delete(f"{path}/x")).json() == {}
    assert (await alice.get(path)).json() == {"chats": []}


async def test_a_large_chat_comes_back_as_it_was_put(alice: httpx.AsyncClient) -> None:
    path = "/canisters/llama_cpp/chats/large"
    said = [{"role": "user", "content": f"{n} é😀".ljust(100)} for n in range(10_000)]
    (await alice.put(path, json={"messages": said})).raise_for_status()
    assert (await alice.get(path)).json()["messages"] == said
    wrong = await alice.put(path, json={"messages": [*said[1:], {}]})
    assert (wrong.status_code, "messages.9999.role" in wrong.json()["reject_message"]) == (400, True)
    (await alice.delete(path)).raise_for_status()


async def test_arguments_of_tools_that_are_nested_too_deeply(server: Served, alice: httpx.AsyncClient) -> None:
    (await alice.post("/apply-template", json=ASK)).raise_for_status()
    runner = server.host.default.model.templates
    pid = runner.pid
    calls = [{"function": {"name": "f", "arguments": "[" * 100_000}}]
    body = {"messages": [*ASK["messages"], {"role": "assistant", "content": "", "tool_calls": calls}]}
    answer = await alice.post("/apply-template", json=body)
    assert answer.status_code == 400
    assert answer.json() == {"Err": {"Other": "the arguments of a tool call in message 1 are nested too deeply"}}
    assert (await alice.post("/apply-template", json=ASK)).status_code == 200
    assert runner.pid == pid


async def test_kept_chats_count_against_the_callers_quota(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True, max_cache_bytes_per_caller=1000) as server, server.client("c") as c:
        talk = {"messages": [{"role": "user", "content": "x" * 2000}]}
        full = await c.put("/canisters/llama_cpp/chats/long", content=json.dumps(talk))
        assert full.status_code == 507
        assert (await c.get("/canisters/llama_cpp/chats")).json() == {"chats": []}
