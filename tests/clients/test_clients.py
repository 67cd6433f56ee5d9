"""Clients of other people, unmodified and pinned, against a live server: each has a script of its own.

Where they could not be installed (`tests/clients/set_up.py` tells why), their tests are skipped with that reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer
from tests.crash.test_kill import wait_until_ready
from tests.harness import CHAT_MODEL

HERE = Path(__file__).parent
CLIENTS = HERE.parent.parent / ".clients"
SECONDS = 240
LIMIT = "2000000000"  # instructions of a call, so that an answer takes some of them

NODE = {
    "openai": "whole stream tools parallelTools schema errors abort models responses",
    "anthropic": "whole stream tools errors count abort",
    "ai_sdk": "whole stream tools schema errors",
}
PYTHON = {
    ("openai3", "with_langchain"): "whole stream tools schema errors",
    ("openai3", "with_pydantic_ai"): "whole responses stream tools schema errors",
    ("openai3", "with_litellm"): "whole stream tools schema errors anthropic ollama",
    ("openai2", "with_instructor"): "tools schema",
    ("openai2", "with_llama_index"): "whole stream tools",
}


def _serving(folder: Path, *flags: str) -> LocalServer:
    return LocalServer(folder, "--model", str(CHAT_MODEL), "--instruction-limit", LIMIT, *flags)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with _serving(tmp_path_factory.mktemp("clients")) as started:
        wait_until_ready(started)
        yield started


def _installed(name: str) -> Path:
    place, note = CLIENTS / name, CLIENTS / f"{name}.missing"
    if note.exists():
        pytest.skip(f"these clients could not be installed: {note.read_text()}")
    if not place.is_dir():
        pytest.skip("these clients are not installed: `make test` installs them, or `make clients`")
    return place


def _environment(server: LocalServer, **more: str) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("CANISTER_")}
    return {**known, "CANISTER_BASE": server.url, "CANISTER_KEY": server.api_key, **more}


def _script(name: str) -> list[str]:
    """A node script as it stands in the tree, beside the installed packages."""
    place = _installed("node")
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, place / f"{script.name}.{os.getpid()}")
        os.replace(place / f"{script.name}.{os.getpid()}", place / script.name)  # other tests may be reading it
    return [node, str(place / f"{name}.mjs")]


def _run(command: list[str], cases: str, environment: dict[str, str]) -> None:
    """All cases of a script in one process: most take less time than the client's import."""
    done = subprocess.run(
        [*command, *cases.split()], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    told = [line for line in done.stdout.splitlines() if line.endswith((": ok", ": failed"))]
    assert told == [f"{case}: ok" for case in cases.split()], f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("script", "cases"), NODE.items())
def test_node(server: LocalServer, script: str, cases: str) -> None:
    _run(_script(script), cases, _environment(server))


@pytest.mark.parametrize(("place", "script", "cases"), [(*key, cases) for key, cases in PYTHON.items()])
def test_python(server: LocalServer, place: str, script: str, cases: str) -> None:
    python = _installed(place) / "bin" / "python"
    _run([str(python), str(HERE / "python" / f"{script}.py")], cases, _environment(server))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--max-calls-per-caller", "1", "--max-queue-per-caller", "0"), "429"),
        (("--max-calls", "1", "--max-queue", "0"), "503"),
    ],
)
def test_a_busy_server_is_asked_again(tmp_path: Path, flags: tuple[str, ...], expected: str) -> None:
    command = _script("openai")
    with _serving(tmp_path, *flags) as server:
        wait_until_ready(server)
        keys = [sys.executable, "-m", "canister", "api-key", "create", "other", "--data-dir", str(tmp_path)]
        other = subprocess.run(keys, capture_output=True, text=True, check=True)
        open_to_all = {"level": 1, "explanation": ""}
        headers = {"Authorization": f"Bearer {server.api_key}"}
        httpx.post(f"{server.url}/set_access", json=open_to_all, headers=headers).raise_for_status()
        more = {"CANISTER_EXPECTED": expected, "CANISTER_OTHER_KEY": other.stdout.split()[-1]}
        _run(command, "retries", _environment(server, **more))


def test_a_response_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    command = _script("openai")
    with _serving(tmp_path) as server:
        wait_until_ready(server)
        reader = subprocess.Popen(
            [*command, "resumed"],
            env=_environment(server),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert reader.stdin is not None
        assert reader.stdout is not None
        try:
            assert reader.stdout.readline().startswith("resp_")
            server.kill()
            server.start()
            wait_until_ready(server)
            out, err = reader.communicate("go on\n", timeout=SECONDS)
        finally:
            reader.kill()
        assert out == "resumed: ok\n", err
