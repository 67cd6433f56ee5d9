"""`canister serve` as a process: its first line, its exit codes, its end."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from canister.cli.local import LocalServer
from canister.config import Settings
from canister.errors import BadRequest, Conflict, NotFound
from canister.server.app import run


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
