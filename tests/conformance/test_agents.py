"""Agents from PyPI and npm, unmodified, against a live server."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.ic.principal import ANONYMOUS
from tests.conformance.clients import Agent, Client, Failed
from tests.conformance.conftest import Connect

GREEDY = ["--samplers", "temperature", "--temp", "0.0"]
PROMPT = "Once upon a time"
DENIED = {"Err": {"Other": "Access Denied"}}


def test_anonymous(connect: Connect, running_server: LocalServer) -> None:
    client = connect(running_server)
    assert client.ok("health") == {"status_code": 200}
    assert client.call("whoami") == ANONYMOUS
    assert client.call("set_max_tokens", {"max_tokens_update": 1, "max_tokens_query": 1}) == DENIED


@pytest.mark.parametrize("kind", ["ed25519", "secp256k1", "prime256v1"])
def test_every_kind_of_key(agent: Agent, connect: Connect, running_server: LocalServer, kind: str) -> None:
    if kind not in agent.key_kinds:
        pytest.skip(f"{agent.name} has no {kind} keys")
    client = connect(running_server, kind)
    assert client.call("whoami") == client.principal
    assert client.call("set_max_tokens", {"max_tokens_update": 1, "max_tokens_query": 1}) == DENIED


def test_delegated(agent: Agent, connect: Connect, running_server: LocalServer) -> None:
    if not agent.delegates:
        pytest.skip(f"{agent.name} makes no delegations")
    client = connect(running_server, "secp256k1", delegated=True)
    assert client.call("whoami") == client.principal
    assert client.call("set_max_tokens", {"max_tokens_update": 1, "max_tokens_query": 1}) == DENIED


@pytest.mark.parametrize("server", ["running_server", "polled_server"])
def test_an_update(connect: Connect, server: str, request: pytest.FixtureRequest) -> None:
    client = connect(request.getfixturevalue(server), "controller")
    answer = client.ok("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    assert answer == {"status_code": 200}


def test_a_chunk_of_two_megabytes(connect: Connect, running_server: LocalServer) -> None:
    client = connect(running_server, "controller")
    chunk = random.Random(0).randbytes(2_000_000)
    arg = {
        "filename": f"chunks/{client.agent.name}",
        "chunk": {"hex": chunk.hex()},
        "chunksize": 2_000_000,
        "offset": 0,
    }
    if client.agent.name == "ic-py":
        pytest.skip("ic-py takes minutes to encode two megabytes")
    answer = client.ok("file_upload_chunk", arg)
    assert answer == {
        "filename": arg["filename"],
        "filesize": len(chunk),
        "filesha256": hashlib.sha256(chunk).hexdigest(),
    }


def failure(client: Client, method: str, arg: str | None = None) -> str:
    with pytest.raises(Failed) as caught:
        client.call_wrongly(method, arg)
    return str(caught.value)


def test_rejected_queries(connect: Connect, running_server: LocalServer) -> None:
    client = connect(running_server, "ed25519")
    assert "Canister has no query method 'run_update'" in failure(client, "run_update")


@pytest.mark.parametrize("server", ["running_server", "polled_server"])
def test_rejected_updates(agent: Agent, connect: Connect, server: str, request: pytest.FixtureRequest) -> None:
    if server == "polled_server" and not agent.polls_rejects:
        pytest.skip(f"{agent.name} throws on a reject that it has polled for")
    client = connect(request.getfixturevalue(server), "controller")
    text = failure(client, "set_max_tokens", "not a record")
    assert "failed to decode call arguments" in text
    if agent.name != "ic-py":  # which shows the message only
        assert "IC0503" in text


def test_a_query_called_as_an_update(connect: Connect, running_server: LocalServer) -> None:
    client = connect(running_server, "ed25519")
    assert client.call_wrongly("whoami") == client.principal


@pytest.mark.parametrize("clock_seconds", [-3600, 3600])
def test_a_clock_that_is_an_hour_wrong(
    agent: Agent, connect: Connect, running_server: LocalServer, clock_seconds: int
) -> None:
    client = connect(running_server, "controller", clock=clock_seconds)
    limits = {"max_tokens_update": 0, "max_tokens_query": 0}
    if agent.sets_clock:
        # It is the refusal of an update, or the time in a certificate, that makes it look for the server's time.
        assert client.ok("set_max_tokens", limits) == {"status_code": 200}
        assert client.call("whoami") == client.principal
        return
    with pytest.raises(Failed):
        client.call("set_max_tokens", limits)
    assert connect(running_server, clock=clock_seconds).call("whoami") == ANONYMOUS


# -- a chat, from the upload of the model to the removal of the prompt cache


def chat_through(client: Client, model: Path, name: str) -> str:
    content = model.read_bytes()
    size = 64_000 if client.agent.name == "ic-py" else 1_000_000
    for offset in range(0, len(content), size):
        chunk = content[offset : offset + size]
        arg = {"filename": name, "chunk": {"hex": chunk.hex()}, "chunksize": size, "offset": offset}
        filesize = client.ok("file_upload_chunk", arg)["filesize"]
    assert filesize == len(content)
    client.ok("load_model", {"args": ["--model", name]})
    flags = ["--prompt-cache", f"{client.agent.name}.cache", "--prompt-cache-all", *GREEDY]
    client.ok("new_chat", {"args": flags[:3]})
    text = ""
    remaining: str | None = PROMPT
    while remaining:
        output = client.ok("run_update", {"args": [*flags, "-p", PROMPT, "-n", "1"]})
        remaining = output["prompt_remaining"]
    output = client.ok("run_update", {"args": [*flags, "-p", "", "-n", "24"]})
    text = output["conversation"]
    client.ok("remove_prompt_cache", {"args": flags[:3]})
    return str(text)


def chat_through_rest(server: LocalServer, name: str) -> str:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=f"{server.url}/canisters/llama_cpp", headers=headers, trust_env=False) as http:

        def run(method: str, *args: str) -> dict[str, str]:
            answer: dict[str, str] = http.post(f"/{method}", json={"args": args}, timeout=60).json()["Ok"]
            return answer

        run("load_model", "--model", name)
        flags = ["--prompt-cache", "rest.cache", "--prompt-cache-all", *GREEDY]
        run("new_chat", *flags[:3])
        while run("run_update", *flags, "-p", PROMPT, "-n", "1")["prompt_remaining"]:
            pass
        text = run("run_update", *flags, "-p", "", "-n", "24")["conversation"]
        run("remove_prompt_cache", *flags[:3])
        return text


@pytest.mark.parametrize("server", ["running_server", pytest.param("polled_server", marks=pytest.mark.nightly)])
def test_a_whole_chat(connect: Connect, server: str, story_model: Path, request: pytest.FixtureRequest) -> None:
    local: LocalServer = request.getfixturevalue(server)
    client = connect(local, "controller")
    name = f"models/{client.agent.name}.gguf"
    text = chat_through(client, story_model, name)
    assert len(text) > len(PROMPT) + 20
    assert text == chat_through_rest(local, name)
