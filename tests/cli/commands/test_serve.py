"""`canister serve` as a process: what it prints, how it ends, and how it says what stands in its way."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from canister.cli import app
from canister.client.local_server import LocalServer, ServerFailed
from tests.processes import text_of
from tests.traces import SECONDS


def test_a_server_tells_where_it_listens_and_ends_in_order(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data", "--canister", "first", "--canister", "second")
    server.start()
    first, *rest = (tmp_path / "data" / "serve.out").read_text().splitlines()
    assert first == f"listening on {server.url}"
    assert any(f"canister call --network {server.url}" in line for line in rest)
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    names = [canister["name"] for canister in httpx.get(f"{server.url}/canisters").json()["canisters"]]
    assert names == ["first", "second"]
    key = tmp_path / "data" / "controller.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().count("\n") == 1
    assert server.stop() == 0


def test_identity_and_ids_outlive_the_process(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data")
    known = []
    for end in (server.kill, server.stop):
        server.start()
        headers = {"Authorization": f"Bearer {server.api_key}"}
        who = httpx.get(f"{server.url}/whoami", headers=headers).json()
        known.append((server.url, who, httpx.get(f"{server.url}/canisters").json()["canisters"][0]["id"]))
        end()
    assert known[0] == known[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_child_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from canister.client.local_server import LocalServer; "
        "LocalServer(pathlib.Path(sys.argv[1])).start(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "data")])
    assert done.returncode == -signal.SIGKILL
    pid = int((tmp_path / "data" / "lock").read_text())
    end = time.monotonic() + SECONDS
    while "serve" in text_of(Path(f"/proc/{pid}/cmdline")):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_stands_in_its_way_is_told(tmp_path: Path, running_server: LocalServer) -> None:
    with pytest.raises(ServerFailed, match="another server uses the data folder"):
        LocalServer(running_server.data_dir).start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ServerFailed, match="is in use"):
            LocalServer(tmp_path / "data", "--port", port).start()
    with pytest.raises(ServerFailed, match="is no address"):
        LocalServer(tmp_path / "data", "--host", "nowhere.invalid").start()
    with pytest.raises(ServerFailed, match="--log-level"):
        LocalServer(tmp_path / "data", "--log-level", "loud").start()


def test_the_reader_of_the_output_may_leave(running_server: LocalServer) -> None:
    """As with `canister … | head -c 1`: the exit code is that of a command that SIGPIPE ended."""
    long = ["call", "--network", running_server.url, "--anonymous", "llama_cpp", "health"]
    for arguments in (["candid"], ["--help"], ["serve", "--help"], long, ["identity", "list"]):
        command = subprocess.Popen(
            [sys.executable, "-c", READER_THAT_LEFT, sys.executable, *arguments], stderr=subprocess.PIPE
        )
        _, err = command.communicate()
        assert (command.returncode, err) == (141, b""), arguments


def test_options_are_spelled_with_dashes_alone() -> None:
    told = CliRunner().invoke(app, ["serve", "--help"]).stdout
    assert "--no-" in told
    assert not re.findall(r"--[a-z-]*_[a-z_-]*", told)


# Gives the command a standard output whose other end is closed.
READER_THAT_LEFT = """
import os, sys
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
os.execv(sys.argv[1], [sys.argv[1], "-m", "canister", *sys.argv[2:]])
"""
