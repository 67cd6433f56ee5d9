"""Clients of AO and Arweave from npm, unmodified, against a real `canister ao serve`."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from canister.ao.signing.wallets import ArweaveWallet
from canister.client.local_server import LocalServer
from tests.clients.ao_clients import run

CODE = """
Count = 0
Handlers.add("ping", "Ping", function(msg)
  Count = Count + 1
  msg.reply({ Action = "Pong", Data = "pong " .. Count .. " to " .. msg.Data })
end)
return "ready"
"""


def told(server: LocalServer, rsa_wallet: ArweaveWallet, name: str, mode: str) -> dict[str, Any]:
    about = httpx.get(f"{server.url}/ao").json()
    given = {"name": name, "mode": mode, "url": server.url, "jwk": json.loads(rsa_wallet.to_jwk()), "code": CODE}
    found: dict[str, Any] = json.loads(run("network", {**given, "module": about["module"], "node": about["address"]}))
    return found


def pong(result: dict[str, Any]) -> str:
    assert "Error" not in result or result["Error"] is None, result
    (message,) = result["Messages"]
    assert {"name": "Action", "value": "Pong"} in message["Tags"]
    text: str = message["Data"]
    return text


@pytest.mark.parametrize(
    "name", ["@permaweb/aoconnect", "aoconnect-54", "aoconnect-63", "aoconnect-85", "aoconnect-93"]
)
def test_aoconnect_in_its_legacy_mode(ao_server: LocalServer, rsa_wallet: ArweaveWallet, name: str) -> None:
    found = told(ao_server, rsa_wallet, name, "legacy")
    assert found["loaded"]["Output"]["data"] == "ready"
    assert pong(found["pinged"]) == "pong 1 to hello"
    assert [pong(found[dry]) for dry in ("dry", "again")] == ["pong 2 to dry"] * 2  # a dry run changes nothing
    assert found["first"] == 2
    assert pong(found["next"][-1]) == "pong 1 to hello"
    assert found["monitored"] == found["unmonitored"] == "string"


@pytest.mark.parametrize("name", ["@permaweb/aoconnect", "aoconnect-93"])
def test_aoconnect_in_its_mainnet_mode(ao_server: LocalServer, rsa_wallet: ArweaveWallet, name: str) -> None:
    found = told(ao_server, rsa_wallet, name, "mainnet")
    assert found["loaded"]["Output"]["data"] == "ready"
    assert pong(found["pinged"]) == "pong 1 to hello"
    assert [pong(found[dry]) for dry in ("dry", "again")] == ["pong 2 to dry"] * 2
    assert pong(found["next"][-1]) == "pong 1 to hello"


@pytest.mark.parametrize("name", ["@permaweb/aoconnect", "aoconnect-85"])
def test_signed_http_requests(ao_server: LocalServer, rsa_wallet: ArweaveWallet, name: str) -> None:
    found = told(ao_server, rsa_wallet, name, "http")
    shown = httpx.post(f"{ao_server.url}/{found['process']}/compute/results={found['slot']}").json()
    assert pong(shown["raw"]) == "pong 1 to hello"
    assert found["evaluated"]["Output"]["data"] == "by aos"


@pytest.mark.parametrize("size", [262144, 300_001])
def test_arweave_and_arbundles(ao_server: LocalServer, rsa_wallet: ArweaveWallet, size: int) -> None:
    found = json.loads(run("storage", {"url": ao_server.url, "jwk": json.loads(rsa_wallet.to_jwk()), "size": size}))
    assert (found["status"], found["same"], found["verified"]) == (200, True, True)
    assert (found["posted"], found["small"]) == (200, "small")
    assert (found["receipt"]["id"], found["item_data"]) == (found["item"], "an item")
    assert found["bundled"] == ["one", "two"]
