"""A whole server on a data folder, driven below its doors, and all that its folder holds, read back."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canister import dispatch
from canister.api import management
from canister.api.methods import BY_NAME
from canister.config import Settings
from canister.runtime.canister import Canister
from canister.runtime.host import Host
from canister.state.ingress_history import IngressMessage, RecordedAnswer

State = dict[str, Any]

VOLATILE = ("_ns", "timestamp", "assigned_at")  # ends of the columns that differ from one run to the next


@dataclass
class Rig:
    host: Host

    @property
    def canister(self) -> Canister:
        return self.host.default

    async def call(
        self, name: str, arg: Any = None, caller: str | None = None, canister: Canister | None = None
    ) -> dispatch.Reply:
        """As an IC message: the answer is recorded in the transaction of the call."""
        canister = canister or self.canister
        caller = caller or self.host.identity.principal
        id = os.urandom(32)
        named: dict[str, object] = {}
        method = BY_NAME.get(name)
        if method is None:
            method = management.find_method(name)
            if method.is_of_server:
                named = {"host": self.host, "request_id": id}
        message = IngressMessage(id, caller, 0)

        def record(transaction: Any, outcome: Any) -> None:
            canister.ingress.history.record(transaction, message, RecordedAnswer(b"answer"))

        def decode() -> object:
            return method.arg.model_validate(arg) if isinstance(arg, dict) else arg

        return await dispatch.execute(canister, method, caller, decode, record, named=named)

    async def ok(self, name: str, arg: Any = None, **named: Any) -> Any:
        reply = await self.call(name, arg, **named)
        assert reply.error is None, (name, str(reply.error))
        return reply.value

    async def stream(self, path: str, data: bytes) -> dispatch.Reply:
        async def blocks() -> AsyncIterator[bytes]:
            yield data

        return await dispatch.store_stream(self.canister, self.host.identity.principal, path, 0, blocks())


@asynccontextmanager
async def running(data_dir: Path, **settings: Any) -> AsyncIterator[Rig]:
    """A started host; its models are loaded."""
    host = Host(Settings(data_dir=data_dir, slots=1, threads=1, **settings))
    await host.start()
    try:
        for canister in host.canisters:
            await canister.model.loaded()
        yield Rig(host)
    finally:
        await host.stop(5)


def reopened(data_dir: Path) -> State:
    """Start a server on the folder and stop it again, without models; then tell what the folder holds.

    Nothing may be left over: no staged file, no redo row, no byte on the disk that the tables do not know.
    """

    async def start_and_stop() -> None:
        host = Host(Settings(data_dir=data_dir))
        await host.start()
        await host.stop(0)

    asyncio.run(start_and_stop())
    return read(data_dir)


def read(data_dir: Path) -> State:
    """What a folder holds that nobody has open: every table, and every file."""
    state: State = {"server": _tables(data_dir / "server.db")}
    for folder in sorted((data_dir / "canisters").iterdir()):
        tables = _tables(folder / "canister.db")
        assert tables.pop("redo") == [], "redo rows are left"
        known = {row["path"]: (row["kind"], row["size"]) for row in tables["files"]}
        found: dict[str, tuple[str, int]] = {}
        contents: dict[str, bytes] = {}
        for path in sorted((folder / "stable").rglob("*")):
            name = str(path.relative_to(folder / "stable"))
            found[name] = ("directory", 0) if path.is_dir() else ("file", path.stat().st_size)
            if path.is_file():
                contents[name] = path.read_bytes()
        assert found == known
        assert not os.listdir(folder / "staging"), "staged files are left"
        state[folder.name] = {**tables, "contents": contents}
    return state


def _tables(path: Path) -> dict[str, list[dict[str, Any]]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        assert [tuple(row) for row in connection.execute("PRAGMA integrity_check")] == [("ok",)]
        names = [
            row["name"]
            for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            if not row["name"].startswith("sqlite_")
        ]
        return {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in names}


# Ids of messages, and records that have those and times in them, which the nodes above them are hashes of.
OF_A_RUN = {("requests", "id"), ("canisters", "request_id"), ("receipts", "record"), ("receipts", "nodes")}


def steady(state: State) -> State:
    """A state without what differs between two runs of the same calls: times, and ids of messages."""

    def without(rows: list[dict[str, Any]], table: str) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in row.items() if not key.endswith(VOLATILE) and (table, key) not in OF_A_RUN}
            for row in rows
            if not (table == "settings" and row["key"].endswith("_ns"))
        ]

    return {
        place: {
            table: {path: data for path, data in rows.items() if not path.endswith(".log")}
            if isinstance(rows, dict)
            else without([row for row in rows if not str(row.get("path", "")).endswith(".log")], table)
            for table, rows in tables.items()
        }
        for place, tables in state.items()
    }
