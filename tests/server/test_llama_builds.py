"""A server whose llama.cpp fails on this processor in some way: it falls back, says so, and chats.

The faults are planted into the server itself as well, so one that does not fall back is gone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.system.machine import cpu_flags
from tests.engine.tiny_models import llama_model
from tests.harness import CHAT_MODEL
from tests.planted import plant
from tests.server.test_process import key_of, wait_for_status, wait_until

PROMPT = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
CHAT = {"args": ["--prompt-cache", "a", "--prompt-cache-all", "-p", PROMPT, "-n", "40", "-sp"]}


def chat_twice(http: httpx.Client) -> None:
    """A prompt in chunks and an answer in rows; then a second chat beside the first one."""
    assert http.post("/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0}).status_code == 200
    for name in ("a", "b"):
        args = [*CHAT["args"][:1], name, *CHAT["args"][2:]]
        record = http.post("/run_update", json={"args": args}).json()["Ok"]
        assert record["n_tokens_generated"] > 0


def has_amx() -> bool:
    """Where it is, the real thing may fail beside what is planted."""
    return cpu_flags() >= {"amx_tile", "amx_int8"}


def run_cli(*args: str) -> str:
    done = subprocess.run([sys.executable, "-m", "canister", *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


PLANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "AMX as plain pip builds it": ("SIGILL", {"rows": 2, "extra": True}, "extra buffer types (repacked weights, AMX)"),
    "extra buffers compute nonsense": ("nan", {"extra": True}, "extra buffer types (repacked weights, AMX)"),
    "large decodes": ("SIGSEGV", {"rows": 9}, "a decode has at most 8 rows"),
    "more than one row": ("SIGABRT", {"rows": 2}, "a decode has at most one row"),
    "flash attention": ("SIGABRT", {"flash": True}, "flash attention is off"),
    "hanging in extra buffers": ("hang", {"rows": 512, "extra": True, "flash": False}, "extra buffer types"),
}


OFTEN = ("AMX as plain pip builds it", "more than one row")


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.nightly) for name in PLANTS]
)
def test_it_falls_back_and_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how, planted, expected = PLANTS[name]
    # A hang takes its time for each kind of weights: one is enough.
    model = llama_model(tmp_path / "f32.gguf") if how == "hang" else CHAT_MODEL
    plant(monkeypatch, tmp_path / "plant", how, **planted)
    with LocalServer(tmp_path / "data", "-m", str(model), "--slots", "2") as server:
        with httpx.Client(base_url=server.url, headers=key_of(server), timeout=120) as http:
            wait_for_status(http, "/readyz", 200)
            chat_twice(http)
            told = http.get("/canisters/llama_cpp/engine").json()["llama_cpp"]
            assert any(reason.startswith(expected) for reason in told["switched_off"])
            assert "pip install --no-binary llama-cpp-python" in told["advice"]
            assert told["extra_buffers"] in ({False} if "extra" in planted else {True, not has_amx()})
        status = ("status", "llama_cpp", "--network", server.url, "--data-dir", str(server.data_dir))
        assert expected in run_cli(*status)
        assert expected in run_cli("doctor", "--data-dir", str(server.data_dir))
        log = (server.data_dir / "serve.err").read_text()
        lines = [line for line in log.splitlines() if "llama.cpp does not work in full on this processor" in line]
        assert len(lines) == 1
        assert expected in json.loads(lines[0])["switched_off"]


def test_when_nothing_survives_the_server_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, tmp_path / "plant", "SIGILL")
    with LocalServer(tmp_path / "data", "-m", str(CHAT_MODEL)) as server:
        with httpx.Client(base_url=server.url, headers=key_of(server), timeout=60) as http:
            wait_until(lambda: "could not be loaded" in http.get("/readyz").text)
            text = http.get("/readyz").json()["canisters"]["llama_cpp"]
            assert "does not work on this processor" in text
            assert "crashed (SIGILL)" in text
            assert "pip install --no-binary llama-cpp-python" in text
            assert http.get("/healthz").status_code == 200
            refused = http.post("/load_model", json={"args": ["--model", f"models/{CHAT_MODEL.name}"]})
            assert (refused.status_code, text in refused.text or "does not work" in refused.text) == (400, True)
        status = ("status", "llama_cpp", "--short", "--network", server.url, "--data-dir", str(server.data_dir))
        assert "none is loaded: Cannot load the model" in run_cli(*status)
        assert "nothing that llama.cpp can do with q8_0 weights survives" in run_cli(
            "doctor", "--data-dir", str(server.data_dir)
        )
        assert server.stop() == 0


def test_a_good_build_is_used_in_full_and_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: on a processor with AMX as well, with whatever build is installed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = LocalServer(tmp_path / "data", "-m", str(CHAT_MODEL), "--slots", "2")
    for start in (1, 2):
        server.start()
        with httpx.Client(base_url=server.url, headers=key_of(server), timeout=120) as http:
            wait_for_status(http, "/readyz", 200)
            chat_twice(http)
            told = http.get("/canisters/llama_cpp/engine").json()["llama_cpp"]
            if not has_amx():
                assert (told["switched_off"], told["advice"], told["extra_buffers"]) == ([], None, True)
            elif told["switched_off"]:
                assert "-fno-tree-dse -fno-dse" in told["advice"]
        assert server.stop() == 0
        log = (server.data_dir / "serve.err").read_text()
        assert log.count("llama.cpp tried on this processor") == 1, start
        assert log.count("model file tried") == 1, start
