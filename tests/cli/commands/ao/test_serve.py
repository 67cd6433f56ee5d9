"""`canister serve --ao` under its supervisor: a crash in the middle takes nothing along."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from canister.ao.signing.wallets import Ed25519Wallet
from canister.client.ao.network import Network
from canister.client.local_server import LocalServer

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

COUNT = """
Count = 0
Handlers.add("count", "Count", function(msg)
  Count = Count + 1
  msg.reply({ Data = tostring(Count) })
end)
"""


def test_processes_money_and_storage_are_there_after_a_crash(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data", "--ao", "--supervise", "--ao-workers", "1")
    with server, Network(server.url, Ed25519Wallet.generate()) as network:
        process = network.spawn([("Name", "counter")])
        for action, data in (("Eval", COUNT), ("Count", ""), ("Unknown", "for the inbox"), ("Count", "")):
            last = network.send(process, [("Action", action)], data.encode())
            network.result(process, last)
        stored = network.store(network.sign(b"stays", [("Kind", "test")]))
        minted = {"account": stored, "amount": "7"}
        network.request("POST", "/ao/mint", json=minted, headers={"Authorization": f"Bearer {server.api_key}"})
        node, before = network.node(), network.results(process)
        waiting = network.send(process, [("Action", "Count")])

        os.kill(child_of(server.pid), signal.SIGKILL)

        assert network.result(process, waiting)["Messages"] != []
        assert network.node() == node
        assert network.results(process)[: len(before)] == before
        look = network.send(process, [("Action", "Eval")], b"return Count .. Inbox[#Inbox].Data .. Name")
        assert network.result(process, look)["Output"]["data"] == "3for the inboxcounter"  # type: ignore[index]
        assert network.request("GET", f"/{stored}").content == b"stays"
        assert network.request("GET", f"/ao/balance/{stored}").json()["balance"] == "7"


def child_of(pid: int) -> int:
    """The server below its supervisor."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    (child,) = {int(each) for task in tasks for each in (task / "children").read_text().split()}
    return child
