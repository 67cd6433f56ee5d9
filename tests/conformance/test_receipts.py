"""The head of the receipts is in a certificate that agents of other people check, unmodified, with the root key."""

from __future__ import annotations

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.ic import principal
from canister.ic.receipts import document
from canister.ic.receipts.check import check
from tests.conformance.clients import Agent, Failed
from tests.conformance.conftest import Connect, root_key_of

CANISTER = principal.canister_id(0)


def test_that_agents_check_the_head(agent: Agent, connect: Connect, running_server: LocalServer) -> None:
    if agent.name == "ic-py":
        pytest.skip("ic-py checks no certificates")
    client = connect(running_server, "controller")
    client.ok("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    headers = {"Authorization": f"Bearer {running_server.api_key}"}
    url = f"{running_server.url}/canisters/llama_cpp/receipts"
    head = httpx.get(url, headers=headers, trust_env=False).json()
    certified = document.certified_data(head["size"], bytes.fromhex(head["root"]))
    key = root_key_of(running_server)
    assert client.certified_data(head["certificate"], key, CANISTER) == certified.hex()
    signature = head["certificate"][-96:]
    forged = head["certificate"][:-96] + signature[::-1]
    with pytest.raises(Failed):
        client.certified_data(forged, key, CANISTER)


def test_that_agents_get_a_receipt_of_their_own_call(
    agent: Agent, connect: Connect, running_server: LocalServer
) -> None:
    client = connect(running_server, "controller")
    client.ok("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    headers = {"Authorization": f"Bearer {running_server.api_key}"}
    url = f"{running_server.url}/canisters/llama_cpp/receipts"
    size = httpx.get(url, headers=headers, trust_env=False).json()["size"]
    told = client.ok("get_receipt", {"call_id": str(size - 1), "since": []})
    file = told["file"]  # ic-py gives a vec nat8 as a list
    receipt, _ = document.read(bytes(file) if isinstance(file, list) else bytes.fromhex(file["hex"]))
    proven = check(receipt, bytes.fromhex(root_key_of(running_server)), told["id"])
    assert (told["method"], proven.record.method) == ("set_max_tokens", "set_max_tokens")
    certified = document.certified_data(receipt.size, proven.root)
    if agent.name != "ic-py":  # which checks no certificates
        found = client.certified_data(receipt.certificate.hex(), root_key_of(running_server), CANISTER)
        assert found == certified.hex()
