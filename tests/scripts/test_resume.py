"""`scripts.upload` and `scripts.download` as processes, killed on either side in the middle of it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer

ROOT = Path(__file__).resolve().parent.parent.parent
N_BYTES = 2_000_000
SMALL_CHUNK_BYTES = 4_000  # so that there is a middle
SECONDS = 120.0
NAME = "models/model.gguf"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server that these tests may kill."""
    with LocalServer(tmp_path_factory.mktemp("resume")) as server:
        yield server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + os.urandom(N_BYTES - 4))
    return path


class Script:
    """One of the scripts at work."""

    def __init__(self, name: str, server: LocalServer, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"scripts.{name}", *map(str, arguments), "--network", server.url],
            cwd=ROOT,
            env={**os.environ, "CANISTER_API_KEY": server.api_key},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self) -> str:
        out, err = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, err
        return out

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def ask(server: LocalServer, method: str, name: str = NAME) -> httpx.Response:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return httpx.post(f"{server.url}/{method}", headers=headers, json={"filename": name}, timeout=SECONDS)


def details(server: LocalServer) -> tuple[int, str]:
    """Size and hash of what was uploaded so far."""
    record = ask(server, "uploaded_file_details").json()["Ok"]
    return record["filesize"], record["filesha256"]


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wait_for(script: Script, is_so: Callable[[], bool]) -> None:
    """Wait until something is so while a script is at work."""
    end = time.monotonic() + SECONDS
    while not is_so():
        assert script.process.poll() is None, script.process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def wait_for_the_middle(script: Script, server: LocalServer, content: bytes) -> None:
    """Wait until an upload of this content has begun and is far from its end."""
    path = next(server.data_dir.glob("canisters/*/stable")) / NAME

    def is_under_way() -> bool:
        return path.exists() and path.stat().st_size > 20 * SMALL_CHUNK_BYTES and content.startswith(path.read_bytes())

    wait_for(script, is_under_way)


def test_upload_goes_on_after_the_client_was_killed(server: LocalServer, source: Path) -> None:
    content = source.read_bytes()
    script = Script("upload", server, source, "--chunksize", SMALL_CHUNK_BYTES)
    wait_for_the_middle(script, server, content)
    script.kill()
    n_bytes, sha256 = details(server)
    assert 0 < n_bytes < N_BYTES
    assert sha256 == sha256_of(content[:n_bytes])
    out = Script("upload", server, source, "--candid", "some.did", "--canister-id", "llama_cpp").result()
    told = re.search(r"\((\d+) of them were there\)", out)
    assert told is not None
    # The last slice that was sent may have been committed a moment after the client was gone.
    assert int(told[1]) in (n_bytes, n_bytes + SMALL_CHUNK_BYTES)
    assert details(server) == (N_BYTES, sha256_of(content))


def test_upload_goes_on_while_the_server_is_killed(server: LocalServer, source: Path) -> None:
    content = source.read_bytes()
    script = Script("upload", server, source, "--chunksize", SMALL_CHUNK_BYTES)
    wait_for_the_middle(script, server, content)
    server.kill()
    server.start()
    assert script.result() == f"uploaded {NAME}: {N_BYTES} bytes, sha256 {sha256_of(content)}\n"
    assert details(server) == (N_BYTES, sha256_of(content))


def test_download_goes_on_after_the_client_was_killed(server: LocalServer, source: Path, tmp_path: Path) -> None:
    Script("upload", server, source).result()
    target = tmp_path / "back.gguf"
    part = tmp_path / "back.gguf.part"
    script = Script("download", server, NAME, "--local-filename", target, "--chunksize", SMALL_CHUNK_BYTES)
    wait_for(script, lambda: part.exists() and part.stat().st_size > 0)
    script.kill()
    assert not target.exists()
    n_bytes = part.stat().st_size
    out = Script("download", server, NAME, "--local-filename", target).result()
    assert f"({n_bytes} of them were there)" in out
    assert target.read_bytes() == source.read_bytes()
    assert not part.exists()


def test_wrong_hash_is_told_before_anything_is_sent(server: LocalServer, source: Path) -> None:
    script = Script("upload", server, source, "--canister-filename", "other", "--hf-sha256", "0" * 64)
    _, err = script.process.communicate(timeout=SECONDS)
    assert script.process.returncode == 1
    assert "nothing was uploaded" in err
    assert ask(server, "filesystem_file_size", "other").status_code == 404


def test_plain_progress_where_no_bar_can_be_drawn(server: LocalServer, source: Path) -> None:
    script = Script("upload", server, source, "--canister-filename", "plain", "--chunksize", "200000")
    _, err = script.process.communicate(timeout=SECONDS)
    lines = err.splitlines()
    assert lines[0] == "plain: 200000 of 2000000 bytes (10 %)"
    assert lines[-1] == "plain: 2000000 of 2000000 bytes (100 %)"
    assert len(lines) == 10
