"""The tour of docs/ao.md, as a person types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from canister.client.ao.network import Network
from canister.client.local_server import LocalServer
from tests.harness import ROOT

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

SECONDS = 120


def test_a_paid_joke(ao_server: LocalServer, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "ao.md").read_text()
    (block,) = re.findall(r"## A paid joke.*?```\n(.*?)```", page, re.DOTALL)
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "CANISTER_URL": ao_server.url,
        "CANISTER_API_KEY": ao_server.api_key,
        "CANISTER_CONFIG_DIR": str(tmp_path),
    }
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    script = f"set -e\n{block}\necho JOKER $JOKER ADDRESS $ADDRESS"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"JOKER (\S+) ADDRESS (\S+)", done.stdout)
    assert found is not None
    assert f"10 for {found[2]}" in done.stdout
    with Network(ao_server.url) as network:
        assert network.request("GET", f"/ao/balance/{found[2]}").json()["balance"] == "5000000000000"
        told = _joke(network, found[1])
        assert (told["Target"], {"name": "Topic", "value": "cats"} in told["Tags"]) == (found[2], True)
        assert told["Data"]
        left = int(network.request("GET", f"/ao/balance/{found[1]}").json()["balance"])
        assert 0 < 5000000000000 - left < 1000


def _joke(network: Network, joker: str) -> dict[str, Any]:
    """What the joker has sent to the chat, as soon as it has."""
    while True:  # pytest's own bound ends it
        for _, result in network.results(joker):
            messages: Any = result["Messages"]
            for message in messages:
                if {"name": "Action", "value": "ChatMessage"} in message["Tags"]:
                    found: dict[str, Any] = message
                    return found
        time.sleep(0.05)
