"""Backup, cleanup, listings, memory, a start and the upgrade of a data folder, by the number of prompt caches in it."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from canister import dispatch
from canister.api import rest_only
from canister.api.records import DirContentInputRecord
from canister.client.local_server import LocalServer
from canister.ops.backup import back_up
from canister.runtime.canister import Canister
from canister.store.cache_paths import SESSIONS, sessions_of
from canister.store.database import Database
from canister.system.data_dir import CANISTER_DATABASE
from models.make_bench_model import cached
from tests.bench import growth
from tests.bench.growth_curve import CALLS, Curve, execute, milliseconds, scaled, took
from tests.bench.memory import pss_megabytes
from tests.bench.servers import BenchError, processor_seconds

CACHES = (10, 1000, 10_000, 100_000)


def caches(folder: Path, scale: float) -> list[Curve]:
    curves = {
        "backup": Curve("backup, for each prompt cache", "ms", "prompt caches"),
        "clean": Curve("cleanup that finds nothing old", "ms", "prompt caches"),
        "removing": Curve("cleanup, for each cache that it removes", "ms", "prompt caches"),
        "page": Curve("first 100 entries of a listing", "ms", "prompt caches"),
        "folder": Curve("100 entries from the middle of a folder", "ms", "prompt caches"),
        "caches": Curve("100 from the middle of a caller's caches", "ms", "prompt caches"),
        "upgrade": Curve("making the indexes of an older data folder, for each cache", "ms", "prompt caches"),
        "start": Curve("start until the model is ready, for each further cache", "ms", "prompt caches"),
        "memory": Curve("memory of the server, for each further cache", "KB", "prompt caches"),
    }
    large = growth.set_up(folder / "caches", cached("thin"), 1)
    smallest: tuple[float, float] | None = None
    for n in scaled(CACHES, scale):
        asyncio.run(growth.fill(large, n))
        seconds: list[float] = []
        target = folder / "backup.tar"
        with took(seconds):
            made = back_up(large.path, target)
        if made.n_files < 2 * n or made.damaged:
            raise BenchError(f"the backup has {made.n_files} files of {n} caches, {len(made.damaged)} damaged")
        target.unlink()
        curves["backup"].add(n, seconds[0] * 1000 / n)
        curves["upgrade"].add(n, _upgraded(large) * 1000 / n)
        asyncio.run(_clean(large, n, curves))
        asyncio.run(growth.fill(large, n))  # those that were removed are made again
        with LocalServer(large.path, *growth.FLAGS, *growth.LIMIT_FLAGS) as server:
            growth.wait_until_ready(server)
            used = processor_seconds(server.pid), pss_megabytes(server.pid)
        if smallest is not None:
            curves["start"].add(n, (used[0] - smallest[0]) * 1000 / (n - CACHES[0]))
            curves["memory"].add(n, (used[1] - smallest[1]) * 1000 / (n - CACHES[0]))
        smallest = smallest or used
    return [replace(curve, fewest=1000) for curve in curves.values()]


def _upgraded(large: growth.Folder) -> float:
    """Seconds of bringing the table of files from the version without indexes for lists to this one."""
    path = large.canister_folder / CANISTER_DATABASE
    indexes = ("ix_files_cache_age", "ix_files_area", "ix_files_parent", "ix_files_models")
    with closing(sqlite3.connect(path)) as older, older:
        for index in indexes:
            older.execute(f"DROP INDEX {index}")
        older.execute("UPDATE alembic_version SET version_num = 'c0005'")
    seconds: list[float] = []
    with took(seconds):
        database = Database(path, "canister")
        database.open()
        database.close()
    return seconds[0]


async def _clean(large: growth.Folder, n: int, curves: dict[str, Curve]) -> None:
    caller = large.callers[0]
    async with growth.opened(large) as (canister, _):
        await _timed(curves["clean"], n, lambda: execute(canister, "cache_cleanup_now", None, caller))
        listing = DirContentInputRecord(dir=".", max_entries=100)
        found = await _timed(
            curves["page"], n, lambda: execute(canister, "recursive_dir_content_query", listing, caller)
        )
        if len(found) < min(100, n):
            raise BenchError(f"a listing of {len(found)} entries")
        await _pages(canister, caller, n, curves)
        row = dispatch.find_method(canister, "set_cache_cleanup_config")
        config = {"period_seconds": None, "ttl_seconds": 0, "max_files_per_run": min(n, 256)}
        assert row.arg is not None
        await execute(canister, row.name, row.arg.model_validate(config), caller)
        removed: list[float] = []
        with took(removed):
            done = await execute(canister, "cache_cleanup_now", None, caller)
        if done.files_deleted != min(n, 256):
            raise BenchError(f"{done.files_deleted} caches were removed")
        curves["removing"].add(n, removed[0] * 1000 / min(n, 256))
        config["ttl_seconds"] = 21_600
        await execute(canister, row.name, row.arg.model_validate(config), caller)


async def _pages(canister: Canister, caller: str, n: int, curves: dict[str, Curve]) -> None:
    """Pages from the middle of lists of REST."""
    sessions = canister.stable.newest_of(caller, SESSIONS)
    middle = sessions[len(sessions) // 2]
    for kind, row, named in (
        ("folder", rest_only.LIST_FOLDER, {"path": sessions_of(caller), "after": f"{middle.id}"}),
        ("caches", rest_only.LIST_CACHES, {"after": f"{middle.modified_ns}.{middle.id}"}),
    ):
        run_row = functools.partial(
            dispatch.execute, canister, row, caller, lambda: None, named={**named, "limit": "100"}
        )
        reply = await _timed(curves[kind], n, run_row)
        if reply.error is not None:
            raise BenchError(str(reply.error))


async def _timed(curve: Curve, n: int, work: Callable[[], Awaitable[Any]]) -> Any:
    """The value of the last of several runs, whose median is a point of the curve."""
    seconds: list[float] = []
    for _ in range(CALLS):
        with took(seconds):
            value = await work()
    curve.add(n, milliseconds(seconds))
    return value
