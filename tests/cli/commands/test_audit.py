"""`canister audit`: calls are looked at while their server runs and when it is stopped, and changes are told."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.ic import principal
from canister.ic.receipts import record as records
from tests.cli.conftest import Command
from tests.harness import CHAT_MODEL

CHAT = ["--prompt-cache", "a.cache", "--prompt-cache-all", "-n", "8", "--temp", "0"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server with a chat of three calls, whose contents are kept, behind two other ones."""
    folder = tmp_path_factory.mktemp("audited") / "data"
    with LocalServer(folder, "-m", str(CHAT_MODEL), "--receipts", "full", "--slots", "2") as server:
        with httpx.Client(headers={"Authorization": f"Bearer {server.api_key}"}, timeout=60, trust_env=False) as http:

            def call(method: str, arg: object) -> None:
                answer = http.post(f"{server.url}/{method}", json=arg)
                assert answer.status_code == 200, answer.text

            while http.get(f"{server.url}/readyz").status_code != 200:
                pass
            call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
            for prompt in ("Once upon a time", "", ""):
                call("run_update", {"args": [*CHAT, "-p", prompt]})
        yield server


@pytest.fixture(scope="module")
def folder(served: LocalServer) -> Path:
    """Its data folder, once it has stopped."""
    served.stop()
    return served.data_dir


def of(data: Path) -> Path:
    return data / "canisters" / principal.canister_id(0) / "canister.db"


def test_a_running_server_is_asked(canister: Command, served: LocalServer) -> None:
    done = canister("audit", "--sample", "all", "--network", served.url, "--data-dir", served.data_dir)
    assert done.code == 0, done.err + done.out
    assert done.out.count("8 drawn, all as the model draws them, decoded one by one by the server") == 3
    assert "looked at, their records are in one signed chain" in done.out
    assert "3 drew the tokens that the model draws" in done.out
    one = json.loads(canister("audit", "--network", served.url, "--data-dir", served.data_dir, "--json").out)
    assert (one["ok"], len(one["calls"])) == (True, 1)  # one in a hundred, and at least one
    refused = canister("audit", "--network", served.url)
    assert refused.code == 1
    assert "Access Denied. The call was made as" in refused.err
    metrics = httpx.get(f"{served.url}/metrics", headers={"Authorization": f"Bearer {served.api_key}"}).text
    assert 'canister_receipts_audited_total{canister="llama_cpp",outcome="equal"}' in metrics


def test_a_stopped_server_is_read(canister: Command, folder: Path) -> None:
    before = of(folder).read_bytes()
    done = canister("audit", "--sample", "all", "--data-dir", folder)
    assert done.code == 0, done.err + done.out
    assert done.out.count("8 drawn, all as the model draws them, decoded together") == 3
    assert "records follow each other" in done.out
    assert of(folder).read_bytes() == before
    half = json.loads(canister("audit", "--sample", "50%", "--seed", "3", "--data-dir", folder, "--json").out)
    again = json.loads(canister("audit", "--sample", "0.5", "--seed", "3", "--data-dir", folder, "--json").out)
    assert half == again
    assert len(half["calls"]) >= 2


def drop(database: sqlite3.Connection, last: int) -> None:
    database.execute("DELETE FROM receipts WHERE number = ?", (last - 1,))


def flip(database: sqlite3.Connection, last: int) -> None:
    (data,) = database.execute("SELECT record FROM receipts WHERE number = ?", (last - 1,)).fetchone()
    changed = data[:4] + bytes([data[4] ^ 1]) + data[5:]  # of its time
    database.execute("UPDATE receipts SET record = ? WHERE number = ?", (changed, last - 1))


def reword(database: sqlite3.Connection, last: int) -> None:
    """The last call is said to have drawn another token, and its record is made to fit."""
    words, data = database.execute(
        "SELECT words, record FROM receipt_contents JOIN receipts USING (number) WHERE number = ?", (last,)
    ).fetchone()
    other = bytearray(words)
    other[-8:-4] = (records.GENERATED | 9).to_bytes(4, "little")
    record = records.decode(data)
    assert record.chat is not None
    place = data.index(record.chat.after)
    data = data[:place] + records.words_hash(bytes(other)) + data[place + 32 :]
    database.execute("UPDATE receipt_contents SET words = ? WHERE number = ?", (bytes(other), last))
    database.execute("UPDATE receipts SET record = ? WHERE number = ?", (data, last))


def overcharge(database: sqlite3.Connection, last: int) -> None:
    (data,) = database.execute("SELECT record FROM receipts WHERE number = ?", (last,)).fetchone()
    record = records.decode(data)
    dearer = records.encode_at(
        type(record)(**{**{n: getattr(record, n) for n in record.__dataclass_fields__}, "cycles": record.cycles + 1}),
        record.index,
        record.previous,
    )
    database.execute("UPDATE receipts SET record = ? WHERE number = ?", (dearer, last))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (drop, "a record was left out: there is none of call"),
        (flip, "does not follow the one before it: one of them was changed, or one is missing"),
        (reword, "the answer is not what this model gives: token"),
        (overcharge, "the cost is wrong"),
    ],
)
def test_what_was_changed_is_told(
    change: Callable[[sqlite3.Connection, int], None], told: str, canister: Command, folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "copy"
    shutil.copytree(folder, data)
    with closing(sqlite3.connect(of(data))) as database, database:
        (last,) = database.execute("SELECT max(number) FROM receipts").fetchone()
        change(database, last)
    done = canister("audit", "--sample", "all", "--data-dir", data)
    assert done.code == 1, done.out
    assert told in done.out


def test_bad_options_are_refused_by_name(canister: Command, tmp_path: Path) -> None:
    for arguments, code, text in (
        (("--sample", "5"), 2, "'5' is no share of the calls: 1%, 0.01, all"),
        (("--sample", "no"), 2, "'no' is no share"),
        (("--sample", "0"), 2, "'0' is no share"),
        (("--model", CHAT_MODEL, "--network", "http://127.0.0.1:1"), 2, "a running server has its model"),
        (("--data-dir", tmp_path / "none"), 1, "no server has run with"),
    ):
        done = canister("audit", *arguments)
        assert done.code == code, done.out + done.err
        assert text in " ".join(done.err.replace("│", " ").split()), done.err
