"""Data folders of released versions: this one opens them, goes on with them, and nothing in them is lost."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from canister.client.local_server import LocalServer
from canister.state.api_keys import open_keys
from tests.harness import CHAT_MODEL
from tests.upgrade.make_archive import (
    ARCHIVES,
    DATA,
    FLAGS,
    MAX_BYTES,
    SECRETS,
    SERVE,
    client,
    ok,
    unpack,
    wait_until_ready,
)

RELEASES = sorted(ARCHIVES.glob("*.tar.xz"))


def test_there_is_one_for_each_release() -> None:
    assert "0.1.0.tar.xz" in [path.name for path in RELEASES]
    assert all(path.stat().st_size <= MAX_BYTES for path in RELEASES)


@pytest.mark.parametrize("archive", RELEASES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def test_a_folder_of(archive: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    expected = unpack(archive, data_dir)
    assert not [name for name in SECRETS if (data_dir / name).exists()]
    if hashlib.sha256(CHAT_MODEL.read_bytes()).hexdigest() != expected["model_sha256"]:
        pytest.skip(f"the folder needs the model that came with {expected['version']}, which is another one now")
    with LocalServer(data_dir, *SERVE) as server:
        use(server, expected)
    for database in [data_dir / "server.db", *data_dir.glob("canisters/*/canister.db")]:
        connection = sqlite3.connect(database)
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert not connection.execute("PRAGMA foreign_key_check").fetchall()
        finally:
            connection.close()
    assert not [path for path in data_dir.glob("canisters/*/staging/*") if path.is_file()]


def use(server: LocalServer, expected: dict[str, Any]) -> None:
    with open_keys(server.data_dir) as keys:
        known = {key.name: key.principal for key in keys.list()}
        assert known["visitor"] == expected["visitor"]
        # The key itself is a secret that is not kept here: another one for the same principal.
        visitor_key = keys.create("visitor-again", expected["visitor"])
    with client(server, server.api_key) as controller, client(server, visitor_key) as visitor:
        wait_until_ready(controller)
        assert [entry["id"] for entry in controller.get("/canisters").json()["canisters"]] == expected["canisters"]

        # What was set, given and stored.
        assert visitor.get("/whoami").json() == expected["visitor"]
        assert ok(controller, "get_max_tokens") == {"max_tokens_update": 10, "max_tokens_query": 10}
        assert ok(controller, "get_access")["level"] == 1
        (role,) = ok(controller, "getAdminRoles")
        assert (role["principal"], role["note"]) == (expected["visitor"], "visits")
        for path, sha256 in expected["files"].items():
            assert ok(controller, "uploaded_file_details", {"filename": path})["filesha256"] == sha256
            stored = controller.get(f"/canisters/llama_cpp/files/{path}").content
            assert hashlib.sha256(stored).hexdigest() == sha256
        assert controller.get("/canisters/two/files/other.bin").content == DATA
        assert len(ok(controller, "get_call_log", {"max_entries": 1000})) == expected["n_calls"]
        assert ok(visitor, "get_chats")["chats"] == expected["chats"]
        assert b"log of llama.cpp runs" in controller.get("/canisters/llama_cpp/files/logs/run.log").content

        # The chat goes on where it was, and nothing of it is computed again.
        record = ok(visitor, "run_update", {"args": [*FLAGS, "-p", ""]})
        assert record["n_prompt_tokens_cached"] == record["n_prompt_tokens"] == expected["n_tokens"]
        assert record["n_prompt_tokens_decoded"] == 0
        assert record["conversation"].startswith(expected["conversation"])
        assert len(record["conversation"]) > len(expected["conversation"])

        # What grew goes on growing.
        grown = controller.put(
            "/canisters/llama_cpp/files/notes/grown.bin", params={"offset": 2 * len(DATA)}, content=DATA
        ).json()["Ok"]
        assert grown["filesha256"] == hashlib.sha256(DATA * 3).hexdigest()
