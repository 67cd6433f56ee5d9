"""`canister serve` as a process: its first line, its exit codes, its end."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from canister.client.http_library import open_client
from canister.client.local_server import LocalServer
from canister.config import Settings
from canister.errors import BadRequest, Conflict, NotFound
from canister.server.app import run
from tests.harness import CHAT_MODEL


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


@pytest.fixture
def server(tmp_path: Path) -> LocalServer:
    return LocalServer(tmp_path / "data")


def test_a_life(server: LocalServer) -> None:
    server.start()
    first_line, *rest = (server.data_dir / "serve.out").read_text().splitlines()
    assert first_line == f"listening on {server.url}"
    assert any("canister call" in line for line in rest)
    before = httpx.get(f"{server.url}/canisters").json()
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    key = {"Authorization": f"Bearer {server.api_key}"}
    caller = httpx.get(f"{server.url}/whoami", headers=key).json()
    assert server.stop() == 0

    server.start()
    assert httpx.get(f"{server.url}/canisters").json() == before
    assert httpx.get(f"{server.url}/whoami", headers=key).json() == caller
    server.kill()

    server.start()
    assert httpx.get(f"{server.url}/canisters").json() == before
    assert server.stop() == 0


@pytest.mark.parametrize("flag", ["--supervise", "--no-supervise"])
def test_a_life_on_a_socket_file(flag: str, tmp_path: Path) -> None:
    """Clients of all kinds find it there, also after a crash, and nobody else may open it."""
    url = f"unix:{tmp_path}/s.sock"
    server = LocalServer(tmp_path / "data", "--listen", url, flag)
    for end in (server.kill, server.stop):
        with contextlib.closing(server_at(server)) as http:
            assert server.url == url
            assert stat.S_IMODE((tmp_path / "s.sock").stat().st_mode) == 0o600
            key = {"Authorization": f"Bearer {server.api_key}"}
            caller = http.get("/whoami", headers=key).json()
            for how in ((), ("--rest",), ("--anonymous",)):
                command = ["call", "--url", url, "--data-dir", str(server.data_dir), *how, "llama_cpp", "whoami"]
                called = subprocess.run(
                    [sys.executable, "-m", "canister", *command], capture_output=True, text=True, timeout=60, check=True
                )
                assert (caller in called.stdout) == (how != ("--anonymous",))
            shown = (server.data_dir / "serve.out").read_text()
            assert f"curl --unix-socket {tmp_path}/s.sock http://localhost/" in shown
            assert f"--network {url} " in shown
            end()
    doctor = [sys.executable, "-m", "canister", "doctor", "--data-dir", str(server.data_dir)]
    assert subprocess.run(doctor, capture_output=True, timeout=60, check=False).returncode == 0


def server_at(server: LocalServer) -> httpx.Client:
    server.start()
    return open_client(server.url, 60)


def test_a_start_that_fails_says_why_in_one_line(running_server: LocalServer) -> None:
    command = [sys.executable, "-m", "canister", "serve", "--port", "0", "--data-dir", str(running_server.data_dir)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "another server uses the data folder" in line


def test_why_a_start_can_fail(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} of 127.0.0.1 is in use"):
            run(Settings(data_dir=tmp_path, port=port))
    with pytest.raises(BadRequest, match="data folder /dev/null/x cannot be used"):
        run(Settings(data_dir=Path("/dev/null/x"), port=0))
    with pytest.raises(NotFound, match=r"missing\.gguf"):
        run(Settings(data_dir=tmp_path, port=0, model=Path("missing.gguf")))
    assert list(tmp_path.iterdir()) == []


def test_logs_are_lines_of_json_on_stderr(running_server: LocalServer) -> None:
    headers = {"X-Request-Id": "seen-in-the-log"}
    response = httpx.post(f"{running_server.url}/whoami", headers=headers)
    assert response.headers["x-request-id"] == "seen-in-the-log"
    httpx.get(f"{running_server.url}/healthz")  # a request is logged after its answer, and before the next one's
    lines = (running_server.data_dir / "serve.err").read_text().splitlines()
    # Other tests share this server, and llama.cpp's grammar parser writes to stderr behind our back.
    (logged,) = [json.loads(line) for line in lines if "seen-in-the-log" in line]
    assert logged["request_id"] == "seen-in-the-log"
    assert (logged["event"], logged["status"], logged["path"]) == ("request", 200, "/whoami")


def test_large_bodies_over_a_socket(running_server: LocalServer) -> None:
    data = bytes(1024) * 20_000
    url = "/canisters/llama_cpp/files/large"
    headers = {"Authorization": f"Bearer {running_server.api_key}"}
    with httpx.Client(base_url=running_server.url, headers=headers, timeout=60) as client:
        try:
            assert client.put(url, content=data).json()["Ok"]["filesize"] == len(data)
            assert client.get(url).content == data
            # Refused without being read; what the client goes on sending does no harm to the connection.
            assert client.post("/file_upload_chunk", content=bytes(9 * 1024 * 1024)).status_code == 413
            assert client.put(url, content=data, headers={"Authorization": "Bearer x"}).status_code == 401
            assert client.get("/whoami").status_code == 200
        finally:
            assert client.post("/filesystem_remove", json={"filename": "large"}).json()["Ok"]["removed"]


def test_a_drain_finishes_what_runs_and_refuses_what_comes(tmp_path: Path) -> None:
    question = "<|im_start|>user\nPlease tell me a story.<|im_end|>\n<|im_start|>assistant\n"
    chat = {"args": ["--prompt-cache", "a", "--prompt-cache-all", "-p", question, "-n", "300", "--ignore-eos", "-sp"]}
    may_end = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"begin, "
        may_end.wait(60)
        yield b"end"

    server = LocalServer(tmp_path / "data", "-m", str(CHAT_MODEL), "--instruction-limit", "none", "--slots", "1")
    server.start()
    with httpx.Client(base_url=server.url, headers=key_of(server), timeout=60) as http, ThreadPoolExecutor() as pool:
        wait_for_status(http, "/readyz", 200)
        assert http.post("/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0}).status_code == 200
        running = pool.submit(http.post, "/run_update", json=chat)
        upload = pool.submit(http.put, "/canisters/llama_cpp/files/kept", content=body())
        wait_until(lambda: running.done() or 'canister_calls_running{canister="llama_cpp"} 1.0' in metrics_of(http))
        wait_until(lambda: 'canister_streams_running{canister="llama_cpp"} 1.0' in metrics_of(http))
        ended = pool.submit(server.stop)
        # A balancer is told to send nobody here, whoever comes all the same is sent away, and probes are answered.
        wait_for_status(http, "/readyz", 503)
        assert http.get("/readyz").json() == {"status": "draining"}
        assert http.get("/healthz").status_code == 200
        refused = http.post("/run_update", json=chat)
        assert (refused.status_code, refused.json()["error_code"]) == (503, "IC0509")
        assert int(refused.headers["retry-after"]) > 0
        may_end.set()
        assert upload.result().json()["Ok"]["filesize"] == len(b"begin, end")
        record = running.result().json()["Ok"]
        assert record["n_tokens_generated"] == 299  # the last one is sampled, and decoded by the next call
        assert ended.result() == 0
    # Both are there after the start, and the refused one left nothing.
    server.start()
    with httpx.Client(base_url=server.url, headers=key_of(server), timeout=60) as http:
        assert http.get("/canisters/llama_cpp/files/kept").content == b"begin, end"
        wait_for_status(http, "/readyz", 200)
        again = http.post("/run_update", json={"args": [*chat["args"][:3], "-p", "", "-n", "0", "-sp"]}).json()["Ok"]
        assert again["conversation"] == record["conversation"]
        calls = http.post("/get_call_log", json={"max_entries": 100}).json()["Ok"]
        assert sum(call["method"] == "run_update" for call in calls) == 2
    assert server.stop() == 0


def test_a_drain_that_takes_too_long_rolls_back(tmp_path: Path) -> None:
    never = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"begin"
        never.wait(60)

    server = LocalServer(tmp_path / "data", "--drain-seconds", "0.5")
    server.start()
    with httpx.Client(base_url=server.url, headers=key_of(server), timeout=60) as http, ThreadPoolExecutor() as pool:
        upload = pool.submit(http.put, "/canisters/llama_cpp/files/lost", content=body())
        wait_until(lambda: 'canister_streams_running{canister="llama_cpp"} 1.0' in metrics_of(http))
        assert server.stop() == 0
        never.set()
        with contextlib.suppress(httpx.TransportError):
            assert upload.result().status_code == 503
    server.start()
    with httpx.Client(base_url=server.url, headers=key_of(server), timeout=60) as http:
        assert http.get("/canisters/llama_cpp/files/lost").status_code == 404
    assert server.stop() == 0


def key_of(server: LocalServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.api_key}"}


def metrics_of(http: httpx.Client) -> str:
    return http.get("/metrics").text


def wait_for_status(http: httpx.Client, path: str, status: int) -> None:
    wait_until(lambda: http.get(path).status_code == status)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(24_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within minutes")
