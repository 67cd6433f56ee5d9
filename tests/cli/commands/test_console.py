"""`canister console`, against a real server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.ic.identity import Identity
from tests.cli.conftest import Command


def test_it_prints_a_link_that_signs_in(canister: Command, running_server: LocalServer) -> None:
    done = canister("console", "--print", "--network", running_server.url, "--api-key", running_server.api_key)
    url, _, code = done.out.strip().partition("/#code=")
    assert (done.code, url) == (0, running_server.url)
    made = httpx.post(f"{url}/session", json={"code": code}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert httpx.post(f"{url}/whoami", headers=headers).json() == made["principal"]


def test_an_identity_signs_a_browser_in(canister: Command, running_server: LocalServer, tmp_path: Path) -> None:
    someone = Identity.generate()
    pem = tmp_path / "someone.pem"
    pem.write_bytes(someone.to_pem())
    done = canister("console", "--print", "--network", running_server.url, "--identity", str(pem))
    url, _, code = done.out.strip().partition("/#code=")
    assert (done.code, url) == (0, running_server.url), done.err
    assert httpx.post(f"{url}/session", json={"code": code}).json()["principal"] == someone.principal
    done = canister("console", "--print", "--network", running_server.url, "--identity", "anonymous")
    assert (done.code, "anonymous" in done.err) == (2, True)


def test_it_opens_a_browser_where_there_is_one(
    canister: Command, running_server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda link: bool(opened.append(link)) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    done = canister("console", "--network", running_server.url, "--api-key", running_server.api_key)
    assert done.code == 0
    assert [link.partition("=")[0] for link in opened] == [f"{running_server.url}/#code"]
    assert "code=" not in done.out + done.err


def test_without_a_key_it_says_how_to_give_one(canister: Command, running_server: LocalServer) -> None:
    done = canister("console", "--print", "--network", running_server.url)
    assert done.code == 2
    assert "--api-key" in done.err
