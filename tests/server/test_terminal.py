"""`canister serve` at a terminal: where it listens comes first, then what to do next, and Ctrl-C is answered."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from canister.cli import main
from canister.client.local_server import LocalServer
from tests.cli.terminal import Terminal
from tests.harness import CHAT_MODEL

SERVE = [sys.executable, "-m", "canister", "serve", "--port", "0"]


def client(folder: Path, url: str) -> httpx.Client:
    key = (folder / "controller.key").read_text().strip()
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60)


@pytest.mark.parametrize("supervise", ["--supervise", "--no-supervise"])
def test_a_person_is_told_where_what_next_and_that_it_stops(tmp_path: Path, supervise: str) -> None:
    never = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"begin"
        never.wait(60)

    with Terminal([*SERVE, "--data-dir", str(tmp_path), supervise], columns=100) as terminal:
        first = terminal.wait_for(r"\n")
        assert first.startswith("listening on http://127.0.0.1:")
        url = first.split()[2]
        told = terminal.wait_for(r"confined: [^\n]*\n")
        assert "no model is loaded" in told
        options = f"--network {url} --data-dir {tmp_path}"
        for line in (
            f"canister upload {options} FILE.gguf",
            f"canister models load {options} model.gguf",
            f"canister chat {options}",
        ):
            assert line in told
        with client(tmp_path, url) as http, ThreadPoolExecutor() as pool:
            try:
                pool.submit(http.put, "/canisters/llama_cpp/files/lost", content=body())
                http.get("/canisters")
                assert http.post("/whoami").status_code == 200
                request = terminal.wait_for(r"POST /whoami 200 [\d.]+ ms  caller=\w{5}-…-\w+\n")
                assert "/canisters" not in request  # who looks around is not worth a line
                assert max(len(line) for line in request.splitlines()) <= 100
                while 'canister_streams_running{canister="llama_cpp"} 1.0' not in http.get("/metrics").text:
                    pass
                terminal.type("\x03")
                terminal.wait_for(r"\^Cstopping: 1 call is running; Ctrl-C again cancels it\n")
                terminal.type("\x03")
                terminal.wait_for(r"cancelling 1 call\n")
                assert terminal.wait_for(r"stopped\n")
            finally:
                never.set()
        assert terminal.end() == 0


def test_with_a_model_the_next_step_is_a_chat(tmp_path: Path) -> None:
    with Terminal([*SERVE, "--data-dir", str(tmp_path), "-m", str(CHAT_MODEL), "--slots", "1"]) as terminal:
        url = terminal.wait_for(r"\n").split()[2]
        told = terminal.wait_for(r"canister chat [^\n]*\n")
        assert "no model is loaded" not in told
        assert f"canister chat --network {url} --data-dir {tmp_path}\n" in told
        link = next(line.strip() for line in told.splitlines() if "/#code=" in line)
        assert link.startswith(f"{url}/#code=")
        code = {"code": link.partition("#code=")[2]}
        made, again = (httpx.post(f"{url}/session", json=code, timeout=60, trust_env=False) for _ in range(2))
        key = (tmp_path / "controller.key").read_text().strip()
        whose = [
            httpx.post(f"{url}/whoami", headers={"Authorization": f"Bearer {one}"}, timeout=60, trust_env=False).json()
            for one in (made.json()["key"], key)
        ]
        assert whose[0] == whose[1]  # the controller, once
        assert again.status_code == 401
        terminal.wait_for(r"model loaded  canister=llama_cpp")
        terminal.type("\x03")
        assert terminal.wait_for(r"stopped\n").splitlines()[-2:] == ["^Cstopping", "stopped"]
        assert terminal.end() == 0


def test_what_a_program_reads_is_as_it_was(tmp_path: Path) -> None:
    """No terminal: the greeting on stdout, JSON on stderr, the end in the log."""
    with LocalServer(tmp_path / "data") as server:
        arguments = ["call", "llama_cpp", "whoami", "--network", server.url, "--data-dir", str(server.data_dir)]
        with pytest.raises(SystemExit):
            main(arguments)
    out = (tmp_path / "data" / "serve.out").read_text()
    assert out.startswith(f"listening on {server.url}\n")
    assert "no model is loaded" not in out
    events = [json.loads(line) for line in (tmp_path / "data" / "serve.err").read_text().splitlines()]
    # A call of the command line is one line.
    (request,) = [event for event in events if event["event"] == "request"]
    assert request["path"].endswith(("/call", "/query"))
    assert [event["event"] for event in events][-2:] == ["stopping", "stopped"]
