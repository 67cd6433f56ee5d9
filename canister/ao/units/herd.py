"""The processes that a node has by itself: a token, a herder, workers. Their ids are those that clients know."""

from __future__ import annotations

from collections.abc import Mapping

from canister.ao.journal import messages, money, processes
from canister.ao.journal.connection import Connection
from canister.ao.native import herder
from canister.ao.processes.messages import Incoming, ProcessKind, derived_id, tags_of

TOKEN = "xU9zFkq3X2ZQ6olwNVvr1vUWIjc3kXTWr7xKQD6dh10"
HERDER = "wh5vB2IbqmIBUqgodOaTvByNFDPr73gbUq1bVOUtCrw"


def prepare(connection: Connection, node: str, n_workers: int, model: str, lease_ms: int, now_ms: int) -> None:
    """The token, the herder and its workers, made once. Workers that did not run had no time to answer."""
    named = {"Name": "Wrapped AR", "Ticker": "wAR", "Denomination": "12"}
    _make_native(connection, node, TOKEN, "token", named, now_ms)
    _make_native(connection, node, HERDER, "herder", {"Name": herder.NAME, "Token": TOKEN}, now_ms)
    desk = money.Desk(connection, HERDER)
    for number in range(n_workers):
        id = derived_id("native worker", number)
        about = {"Name": f"Worker {number + 1}", "Herder": HERDER, "Model-ID": model}
        if _make_native(connection, node, id, "worker", about, now_ms):
            desk.set_worker(id, "idle")
            if desk.n_waiting():  # the herder gives work when it hears something
                told = tags_of(Action="Add-Worker", Worker=id)
                coming = Incoming(derived_id("native worker comes", number), node, HERDER, b"", told)
                messages.deliver(connection, HERDER, coming, node, now_ms)
    money.put_off(connection, now_ms + lease_ms)


def _make_native(
    connection: Connection, node: str, id: str, kind: ProcessKind, named: Mapping[str, str], now_ms: int
) -> bool:
    if processes.find(connection, id) is not None:
        return False
    tags = tuple((name.encode(), value.encode()) for name, value in {"Type": "Process", **named}.items())
    processes.make(connection, id, node, kind, kind, tags)
    messages.deliver(connection, id, Incoming(id, node, id, b"", tags), node, now_ms)
    return True
