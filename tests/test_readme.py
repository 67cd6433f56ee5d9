"""The tour of the README, run line by line against a server, as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.model_file.shipped import shipped_model

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:8000"
NODE_MODULES = (ROOT / ".clients/agents_node/node_modules", ROOT / ".clients/node/node_modules")


def tour() -> list[str]:
    """The shell blocks of the tour, without those that only start a server."""
    _, _, rest = README.partition("\n## A tour\n")
    chapter, _, _ = rest.partition("\n## ")
    blocks: list[str] = re.findall(r"```bash\n(.*?)```", chapter, re.DOTALL)
    return [block for block in blocks if not block.startswith("canister serve")]


def programs(language: str) -> list[str]:
    """The snippets in that language, as they stand."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    if shipped_model() is None:
        pytest.skip("the shipped model is not here")
    with LocalServer(tmp_path_factory.mktemp("readme")) as server:
        yield server


def test_tour(server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "canister"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m canister "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "CANISTER_URL": server.url,
        "CANISTER_DATA_DIR": str(server.data_dir),
    }
    blocks = tour()
    assert len(blocks) >= 7
    for block in blocks:
        script = "set -eu\n" + block.replace(URL, server.url)
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        assert '"Err"' not in done.stdout, f"{block}\n{done.stdout}"


@pytest.mark.parametrize("snippet", programs("python"))
def test_python_of_the_tour(server: LocalServer, snippet: str) -> None:
    load(server)
    assert said_by([sys.executable, "-c", snippet.replace(URL, server.url)], server).strip()


@pytest.mark.parametrize("snippet", programs("js"))
def test_javascript_of_the_tour(server: LocalServer, snippet: str, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed here")
    packages = re.findall(r'from "([^"]+)"', snippet)
    for installed in NODE_MODULES:
        if all((installed / name).exists() for name in packages):
            (tmp_path / "node_modules").symlink_to(installed)
            break
    else:
        pytest.skip(f"{', '.join(packages)}: not installed; `make clients` does it")
    load(server)
    script = tmp_path / "call.mjs"
    script.write_text(snippet.replace(URL, server.url), encoding="utf-8")
    assert said_by([node, str(script)], server).strip()


def load(server: LocalServer) -> None:
    """Have the shipped model loaded, as the tour has by then."""
    model = shipped_model()
    assert model is not None
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=f"{server.url}/canisters/llama_cpp", headers=headers, timeout=60) as http:
        http.put("/files/models/model.gguf", content=model.read_bytes()).raise_for_status()
        http.post("/load_model", json={"args": ["--model", "models/model.gguf"]}).raise_for_status()


def said_by(command: list[str], server: LocalServer) -> str:
    """What a program prints that has the key."""
    done = subprocess.run(command, env={**os.environ, "KEY": server.api_key}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} → {target}"
