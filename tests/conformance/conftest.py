"""Servers and agents for the conformance tests; what cannot be installed here is skipped, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from canister.client.local_server import LocalServer
from canister.ic import cbor, principal
from tests.conformance.clients import AGENTS, Agent, Client, NotInstalled, driver

CANISTER = principal.canister_id(0)

Connect = Callable[..., Client]


@pytest.fixture(params=AGENTS, ids=lambda agent: agent.name)
def agent(request: pytest.FixtureRequest) -> Agent:
    found: Agent = request.param
    try:
        driver(found)
    except NotInstalled as error:
        pytest.skip(f"{found.name} could not be installed: {error}")
    return found


@pytest.fixture(scope="session")
def polled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server that waits for no update, so that every one is polled for."""
    folder = tmp_path_factory.mktemp("polled")
    with LocalServer(folder, "--slots", "2", "--sync-call-seconds", "0") as server:
        yield server


def root_key_of(server: LocalServer) -> str:
    document = cbor.decode(httpx.get(f"{server.url}/api/v2/status", trust_env=False).content)
    assert isinstance(document, dict)
    root_key = document["root_key"]
    assert isinstance(root_key, bytes)
    return root_key.hex()


def controller_secret(data_dir: Path) -> str:
    """The private key of the server's own identity, in hex."""
    key = load_pem_private_key((data_dir / "controller.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key.private_bytes_raw().hex()


@pytest.fixture(scope="session")
def idle_clients() -> Iterator[list[Client]]:
    """Agents that no test uses just now: to start one takes longer than most tests."""
    idle: list[Client] = []
    yield idle
    for client in idle:
        client.close()


@pytest.fixture
def connect(agent: Agent, idle_clients: list[Client]) -> Iterator[Connect]:
    """Aims the agent at a server: `connect(server)` is anonymous, `connect(server, "secp256k1")` signs with a new key,
    `connect(server, "controller")` with the server's own."""
    used: list[Client] = []
    with ExitStack() as changed:

        def start(server: LocalServer, kind: str = "anonymous", *, delegated: bool = False, clock: int = 0) -> Client:
            client = next((idle for idle in idle_clients if idle.agent is agent), None) if not clock else None
            if client is None:
                client = Client(agent)
            else:
                idle_clients.remove(client)
            if clock:
                changed.callback(client.close)  # its process's clock is wrong
            else:
                used.append(client)
            secret = None
            if kind == "controller":
                kind, secret = "ed25519", controller_secret(server.data_dir)
            client.open(
                server.url, CANISTER, root_key_of(server), kind, secret, delegated=delegated, clock_seconds=clock
            )
            return client

        yield start
    idle_clients.extend(used)
