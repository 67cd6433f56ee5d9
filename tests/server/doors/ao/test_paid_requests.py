"""What paid requests must come to where AOS-Llama's own herder kept the money, lost a worker, or broke its clients.

Each by signed messages to a real server: the money of a client is what the token says, and answers come to the client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from canister.ao.native.fees import MOST_PUBLISHED
from canister.ao.signing.wallets import ArweaveWallet, Ed25519Wallet, Wallet
from canister.ao.units import HERDER, TOKEN
from canister.client.ao.network import Network
from canister.client.local_server import LocalServer
from canister.system.data_dir import AO, AO_NODE

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

PROMPT = "What is the meaning of life?"
NEEDED = 12  # 1 and 6 words and 5 tokens
LEASE_SECONDS = "0.5"
# A worker of whoever signs as the node; it is as slow, or as silent, as its owner lets it be.
SCRIPTED = """
Asked = {}
Handlers.add("Inference", "Inference", function(msg) Asked[#Asked + 1] = msg end)
function Tell(action, data) table.remove(Asked, 1).reply({ Action = action, Data = data, Error = "no electricity" }) end
"""


def until(condition: Callable[[], bool]) -> None:
    """Wait for what a server does; the test's own time limit is the only one."""
    while not condition():
        time.sleep(0.02)


class Client:
    """A wallet with 1000 units of the token, and what it and the herder have told each other."""

    def __init__(self, server: LocalServer, network: Network, wallet: Wallet) -> None:
        self.wallet, self.network = wallet, network
        self._key = server.api_key
        self.mint(wallet.address, 1000)
        self._cursor = self.network.last_cursor(HERDER)

    def mint(self, account: str, amount: int) -> None:
        about, headers = {"account": account, "amount": str(amount)}, {"Authorization": f"Bearer {self._key}"}
        self.network.request("POST", "/ao/mint", json=about, headers=headers)

    def pay(
        self,
        quantity: int = NEEDED,
        *,
        prompt: str | None = PROMPT,
        tokens: str | None = "5",
        reference: str | None = None,
    ) -> None:
        given = {"X-Prompt": prompt, "X-Tokens": tokens, "X-Reference": reference}
        tags = [("Action", "Transfer"), ("Recipient", HERDER), ("Quantity", str(quantity))]
        tags += [(name, text) for name, text in given.items() if text is not None]
        told = self.network.result(TOKEN, self.network.send(TOKEN, tags))
        assert "Error" not in told, told

    def balance(self) -> int:
        return int(self.network.request("GET", f"/ao/balance/{self.wallet.address}").json()["balance"])

    def has(self, amount: int) -> None:
        """Once it has, which is when a refund has come."""
        until(lambda: self.balance() == amount)

    def of_herder(self, action: str) -> list[dict[str, Any]]:
        """Messages of the herder to this wallet, or about it."""
        found, cursor = [], self._cursor
        while page := self.network.results(HERDER, cursor):
            cursor = page[-1][0]
            found += [each for _, result in page for each in messages(result) if self._is_mine(each)]
        return [each for each in found if tags(each)["Action"] == action]

    def _is_mine(self, message: dict[str, Any]) -> bool:
        return self.wallet.address in (message["Target"], tags(message).get("Recipient"))

    def answer(self) -> dict[str, Any]:
        """The first that the herder sends."""
        until(lambda: bool(self.of_herder("Inference-Response")))
        return self.of_herder("Inference-Response")[0]

    def prices(self) -> dict[str, str]:
        told = self.network.result(HERDER, self.network.send(HERDER, [("Action", "Info")]))
        return tags(messages(told)[0])


def messages(result: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result["Messages"]
    return found


def tags(message: dict[str, Any]) -> dict[str, str]:
    return {tag["name"]: tag["value"] for tag in message["Tags"]}


@contextmanager
def funded(server: LocalServer) -> Iterator[Client]:
    wallet = Ed25519Wallet.generate()
    with Network(server.url, wallet) as network:
        yield Client(server, network, wallet)


@pytest.fixture
def client(ao_server: LocalServer) -> Iterator[Client]:
    with funded(ao_server) as made:
        yield made


def test_a_refund_goes_to_who_paid(client: Client) -> None:
    client.pay(NEEDED - 1, reference="r")
    client.has(1000)
    (refund,) = client.of_herder("Transfer")
    found = tags(refund)
    assert (refund["Target"], found["Recipient"], found["X-Needed"]) == (TOKEN, client.wallet.address, str(NEEDED))
    assert f"{NEEDED} is needed" in found["X-Reason"]


def test_a_request_without_a_reference_is_answered_and_its_worker_works_on(client: Client) -> None:
    for _ in range(3):  # there are two workers
        client.pay()
    until(lambda: len(client.of_herder("Inference-Response")) == 3)
    assert all("X-Reference" not in tags(each) for each in client.of_herder("Inference-Response"))
    assert client.balance() == 1000 - 3 * NEEDED


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (None, "5"),
        ("", "5"),
        ("  \n", "5"),
        (PROMPT, None),
        (PROMPT, "five"),
        (PROMPT, "1.5"),
        (PROMPT, "0"),
        (PROMPT, "2049"),
    ],
)
def test_what_is_no_request_is_paid_back(client: Client, prompt: str | None, tokens: str | None) -> None:
    client.pay(500, prompt=prompt, tokens=tokens)
    client.has(1000)
    assert client.of_herder("Transfer")[0]["Target"] == TOKEN
    assert not client.of_herder("Inference-Response")


def test_no_payment_makes_a_price_that_clients_cannot_reckon_with(client: Client) -> None:
    client.pay(1, prompt="", tokens="-1")  # which needs nothing, by the formula
    client.has(1000)
    client.pay(900, prompt="a", tokens="1")
    client.answer()
    found = client.prices()
    assert 1 <= float(found["Last-Multiplier"]) <= MOST_PUBLISHED
    assert int(found["Queue-Length"]) >= 0


def test_a_client_that_names_its_fee_before_it_knows_any_price_is_answered(client: Client) -> None:
    """By the package that is shipped; and one that names none asks for the prices first."""
    network = client.network
    process = network.spawn()
    client.mint(process, 10**9)  # whatever the last payment was
    code = b"""APM.install("@sam/Llama-Herder")
        Herder = require("@sam/Llama-Herder")
        Told = {}
        function tell(answer, msg) Told[#Told + 1] = answer or ("none: " .. tostring(msg)) end
        Herder.run("a b", 2, tell, { Fee = 5 })
        Herder.run("a b c", 2, tell)"""
    told = network.result(process, network.send(process, [("Action", "Eval")], code))
    assert "Error" not in told, told

    def both() -> bool:
        told = network.result(process, network.send(process, [("Action", "Eval")], b"return #Told"))
        return bool(told["Output"]["data"] == "2")  # type: ignore[index]

    until(both)
    told = network.result(process, network.send(process, [("Action", "Eval")], b"return table.concat(Told, '|')"))
    assert "none" not in str(told["Output"])


# -- workers that do what they are told


class Herd:
    """A server whose workers are programs of its node, without native ones."""

    def __init__(self, server: LocalServer, node: Network) -> None:
        self.server, self.node = server, node
        self._workers: list[str] = []

    def workers(self, n: int) -> list[str]:
        """So many, and those of before are gone."""
        for worker in self._workers:
            self.ask(HERDER, ("Action", "Remove-Worker"), ("Worker", worker))
        self._workers = [self.node.spawn() for _ in range(n)]
        for worker in self._workers:
            self.eval(worker, SCRIPTED)
            self.ask(HERDER, ("Action", "Add-Worker"), ("Worker", worker))
        return self._workers

    def ask(self, process: str, *named: tuple[str, str], data: str = "") -> dict[str, Any]:
        told = self.node.result(process, self.node.send(process, list(named), data.encode()))
        assert "Error" not in told, told
        return told

    def eval(self, process: str, code: str) -> str:
        return str(self.ask(process, ("Action", "Eval"), data=code)["Output"]["data"])

    def until_asked(self, worker: str) -> None:
        until(lambda: self.eval(worker, "return #Asked") != "0")


@contextmanager
def served(folder: Path, *flags: str) -> Iterator[Herd]:
    with LocalServer(folder, "--slots", "2", "--workers", "0", *flags, command=("ao", "serve")) as server:
        wallet = ArweaveWallet.from_jwk((folder / AO / AO_NODE).read_text())
        with Network(server.url, wallet) as node:
            yield Herd(server, node)


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    with served(tmp_path_factory.mktemp("ao_herd")) as made:
        yield made


@pytest.fixture
def payer(herd: Herd) -> Iterator[Client]:
    with funded(herd.server) as made:
        yield made


def test_all_idle_workers_begin(herd: Herd, payer: Client) -> None:
    workers, client = herd.workers(4), payer
    for number in range(4):
        client.pay(reference=str(number))
    for worker in workers:  # none of whom has answered
        herd.until_asked(worker)
    assert client.prices()["Queue-Length"] == "0"
    for worker in workers:
        herd.eval(worker, "Tell('Inference-Response', 'done')")
    until(lambda: len(client.of_herder("Inference-Response")) == 4)
    assert {tags(each)["X-Reference"] for each in client.of_herder("Inference-Response")} == set("0123")


def test_who_fails_is_no_end_of_a_request_and_fails_twice_is_paid_back(herd: Herd, payer: Client) -> None:
    (worker,), client = herd.workers(1), payer
    client.pay()
    herd.until_asked(worker)
    herd.eval(worker, "Tell('Inference-Error')")
    herd.until_asked(worker)  # the same request once more
    herd.eval(worker, "Tell('Inference-Response', 'better')")
    assert client.answer()["Data"] == "better"
    assert client.balance() == 1000 - NEEDED
    client.pay()
    for _ in range(2):
        herd.until_asked(worker)
        herd.eval(worker, "Tell('Inference-Error')")
    client.has(1000 - NEEDED)
    assert "no electricity" in tags(client.of_herder("Transfer")[0])["X-Reason"]
    client.pay()
    herd.until_asked(worker)  # it is not busy for ever
    herd.eval(worker, "Tell('Inference-Response', 'and on')")
    until(lambda: len(client.of_herder("Inference-Response")) == 2)


def test_who_says_nothing_is_given_up_and_at_last_the_money_comes_back(tmp_path: Path) -> None:
    with served(tmp_path, "--ao-lease", LEASE_SECONDS) as herd, funded(herd.server) as client:
        first, second = herd.workers(2)
        client.pay()
        client.has(1000)
        assert herd.eval(first, "return #Asked") == herd.eval(second, "return #Asked") == "1"
        (refund,) = client.of_herder("Transfer")
        assert tags(refund)["X-Reason"] == "no worker answered in time"
        herd.eval(first, "Tell('Inference-Response', 'late')")
        assert not client.of_herder("Inference-Response")
