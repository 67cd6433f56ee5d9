"""Whatever is sent to a token and a herder: no money comes from nowhere or is lost, and nothing is their fault."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.ao.journal import messages, money, processes
from canister.ao.journal.connection import Connection
from canister.ao.native.herder import LEASE_MS
from canister.ao.processes.messages import Delivered, Incoming, Place, derived_id
from canister.ao.units import HERDER, TOKEN
from canister.ao.units.herd import prepare
from canister.ao.units.settling import AlreadySettled, native_result, run_native, settle
from canister.store.connections import make_engine
from canister.store.migrations import create
from tests.ao.units.world import NODE

ACCOUNTS = ("alice", "bob", HERDER, TOKEN, NODE, derived_id("native worker", 0))
_number = itertools.count()
texts = st.text(max_size=12) | st.sampled_from(("-1", "0", "1", "5", "12", "100", "9" * 80, "1e3", "٣", "½"))
names = st.sampled_from(
    (
        "Recipient",
        "Quantity",
        "X-Prompt",
        "X-Tokens",
        "X-Reference",
        "X-Termination",
        "Sender",
        "Cast",
        "Worker",
        "Reference",
    )
)
actions = st.sampled_from(
    ("Transfer", "Info", "Balance", "Balances", "Mint", "Credit-Notice", "Inference-Response", "Inference-Error",
     "Add-Worker", "Remove-Worker", "Leases-Over", "Total-Supply", "Eval", "")
)  # fmt: skip
useful = st.fixed_dictionaries(
    {
        "Action": st.just("Transfer"),
        "Recipient": st.sampled_from((HERDER, "alice", "bob")),
        "Quantity": st.integers(1, 60).map(str),
        "X-Prompt": st.just("one two three"),
        "X-Tokens": st.integers(-1, 12).map(str),
    }
)
sent = st.tuples(
    st.sampled_from((TOKEN, HERDER)),
    st.sampled_from(ACCOUNTS),
    st.booleans(),  # for itself, or as a process of the node
    useful
    | st.builds(lambda action, more: {"Action": action, **more}, actions, st.dictionaries(names, texts, max_size=6)),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("native") / "ao.db"


@contextmanager
def fresh(path: Path) -> Iterator[Connection]:
    """Tables in a transaction that is undone."""
    engine = make_engine(path, "BEGIN IMMEDIATE")
    with engine.connect() as connection:
        create(connection, "ao")
        prepare(connection, NODE, 1, "model", LEASE_MS, 0)
        yield connection
        connection.rollback()
    engine.dispose()


def run_all(connection: Connection, now_ms: int) -> None:
    """The token and the herder, until both have nothing to do."""
    while woken := [each for each in processes.waiting(connection) if each in (TOKEN, HERDER)]:
        for process in woken:
            run_native(connection, NODE, process, now_ms)


def post(connection: Connection, process: str, sender: str, owner: str, named: dict[str, str], now_ms: int) -> None:
    tags = tuple((name.encode(), value.encode("utf-8", "replace")) for name, value in named.items())
    message = Incoming(derived_id("random", next(_number)), owner, process, b"said", tags)
    messages.deliver(connection, process, message, sender, now_ms)


@settings(max_examples=10)
@given(st.lists(sent, max_size=20))
def test_money_is_kept(path: Path, all_sent: list[tuple[str, str, bool, dict[str, str]]]) -> None:
    with fresh(path) as connection:
        ledger = money.Ledger(connection, TOKEN)
        n_minted = 1000
        for account in ("alice", "bob"):
            ledger.add(account, 500)
        for number, (process, sender, for_itself, named) in enumerate(all_sent):
            is_wallet = sender in ("alice", "bob") or (for_itself and sender not in (TOKEN, HERDER))
            owner = sender if is_wallet else NODE
            if named["Action"] == "Mint" and sender == NODE:
                continue
            if named["Action"] == "Transfer" and sender in (HERDER, TOKEN):
                continue  # which they send by themselves alone
            post(connection, process, sender, owner, named, number)
            run_all(connection, number)
            assert ledger.supply() == n_minted
            assert all(amount > 0 for amount in ledger.all().values())
        desk = money.Desk(connection, HERDER)
        for worker in [derived_id("native worker", 0)]:  # what is still asked of it fails, and is paid back
            while (job := desk.of_worker(worker)) is not None:
                about = {"Action": "Inference-Error", "X-Reference": f"{job.seq}.{job.n_tries}"}
                post(connection, HERDER, worker, NODE, about, 10**6)
                run_all(connection, 10**6)
        assert ledger.supply() == n_minted


def test_what_was_run_is_not_run_again(path: Path) -> None:
    with fresh(path) as connection:
        post(connection, TOKEN, NODE, NODE, {"Action": "Mint", "Recipient": "alice", "Quantity": "5"}, 1)
        run_all(connection, 1)
        info = processes.find(connection, TOKEN)
        assert info is not None
        again = Delivered(Place(TOKEN, 1, "x"), Incoming("x", NODE, TOKEN), NODE, 1)
        ran = native_result(connection, NODE, info, again)
        with pytest.raises(AlreadySettled):
            settle(connection, NODE, info, again, ran, 1)
        assert money.Ledger(connection, TOKEN).balance("alice") == 5
