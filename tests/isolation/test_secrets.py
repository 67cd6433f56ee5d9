"""No secret reaches a log or the disk, prompts reach the log at debug level alone; and keys are compared evenly."""

from __future__ import annotations

import hmac
import json
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.config import Settings
from canister.model_file.shipped import shipped_model
from canister.runtime.host import Host
from canister.server.app import running
from canister.state import api_keys
from canister.state.api_keys import open_keys

PROMPT = "canaryprompt whom nobody else may read"
BAD_KEY = "lc_00000000_" + "canarykey" + "A" * 34


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A whole session at debug level, with errors of every kind. The data folder, and the secrets that were used."""
    model = shipped_model()
    if model is None:
        pytest.skip("the chat model is not in this checkout")
    data_dir = tmp_path_factory.mktemp("secrets") / "data"
    with LocalServer(data_dir, "--log-level", "debug", "--slots", "2") as server:
        with open_keys(data_dir) as ring:
            key = ring.create("agent")
        secrets = [server.api_key, key]
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for secret in (*secrets, BAD_KEY, "Basic " + key):
                headers = {"Authorization": f"Bearer {secret}"}
                data = model.read_bytes() if secret == secrets[0] else b""
                client.put("/canisters/llama_cpp/files/models/m.gguf", content=data, headers=headers)
                calls = {
                    "set_access": {"level": 1},
                    "load_model": {"args": ["--model", "models/m.gguf"]},
                    "chats_resume": None,
                    "new_chat": {"args": ["--prompt-cache", "c"]},
                    "run_update": {"args": ["--prompt-cache", "c", "-p", PROMPT, "-n", "2", "--log-verbosity", "9"]},
                    "run_query": {"args": ["-p", PROMPT, "-n", "2", "--grammar", 'root ::= "a"']},
                    "estimate_run": {"args": ["-p", PROMPT]},
                    "get_chats": None,
                    "no_such_method": {"args": [PROMPT]},
                    "remove_prompt_cache": {"args": [PROMPT]},
                }
                posted = (client.post(f"/{name}", json=arg, headers=headers) for name, arg in calls.items())
                statuses = [response.status_code for response in posted]
                if secret == secrets[0]:
                    assert statuses[:8] == [200] * 8
                client.post("/run_update", content=PROMPT.encode(), headers=headers)
                client.get(f"/whoami?key={secrets[0]}", headers=headers)
    return data_dir, secrets


def test_no_key_stands_in_a_log_or_on_the_disk(session: tuple[Path, list[str]]) -> None:
    data_dir, secrets = session
    for path in data_dir.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (*secrets, BAD_KEY):
                if path.name == "controller.key":
                    continue
                assert secret.encode() not in data, path
                assert secret.split("_", 2)[2].encode() not in data, path


def test_private_files_are_private(session: tuple[Path, list[str]]) -> None:
    data_dir, _ = session
    for name in ("controller.key", "controller.pem", "node.pem", "root.key"):
        assert (data_dir / name).stat().st_mode & 0o077 == 0, name
    assert data_dir.stat().st_mode & 0o077 == 0


def test_prompts_are_logged_at_debug_level_alone(session: tuple[Path, list[str]]) -> None:
    lines = (session[0] / "serve.err").read_text().splitlines()
    assert len(lines) > 30
    for line in lines:
        if "canaryprompt" in line:
            assert json.loads(line)["level"] == "debug", line


@pytest.mark.anyio
async def test_every_key_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One comparison of two hashes of full length for every key of the right form, known or not, expired or not."""
    compared: list[tuple[str, str]] = []

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return hmac_compare(a, b)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(api_keys.hmac, "compare_digest", compare)
    async with running(Host(Settings(data_dir=tmp_path / "data"))) as host:
        compared.clear()
        known, expired = host.keys.create("known"), host.keys.create("expired", lifetime_seconds=-1)
        wrong_end = known[:-1] + ("A" if known[-1] != "A" else "B")
        cases = {known: True, expired: False, wrong_end: False, "lc_00000000_" + "A" * 43: False}
        for key, counts in cases.items():
            compared.clear()
            assert (host.principal_of(key) is not None) == counts
            ((given, expected),) = compared
            assert len(given) == len(expected) == 64
