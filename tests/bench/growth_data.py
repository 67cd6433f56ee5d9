"""What is done with a data folder, by how much is in it: `python -m tests.bench.growth_data [--smoke]`.

    caches     backup, cleanup, the first page of a listing, memory and a start, by the number of prompt caches
    calls      a call and pages of the call log, by the number of its rows
    canisters  a call, a start and memory, by the number of canisters, each with a model of its own
    contexts   a call of one token, and its decoding alone, by the tokens of its chat
    files      upload, download and SHA-256 by the size of the file, and the server's memory meanwhile

The variable GROWTH names some of them. Each curve is flat, or so much for each (of files, megabytes); `growth.py` has
calls and restarts beside chats. Times are of processors, of all threads, since that is what a machine with other work
tells truly. The curves are drawn by `python -m tests.bench.growth_chart`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select

from canister import dispatch
from canister.api import rest_only
from canister.api.records import CallLogInput, DirContentInputRecord, InputRecord
from canister.client.local_server import LocalServer
from canister.engine.llama import Context, Model
from canister.engine.llama_build import start_backend
from canister.engine.llama_types import ContextParams
from canister.ops.backup import back_up
from canister.runtime.canister import Canister
from canister.state import call_log
from canister.store import tables
from canister.store.cache_paths import SESSIONS, sessions_of
from canister.store.database import Database
from canister.store.statements import Prepared
from canister.system.data_dir import CANISTER_DATABASE
from models.make_bench_model import cached
from tests.bench import growth
from tests.bench.growth_fill import run
from tests.bench.http_client import Http
from tests.bench.memory import pss_megabytes
from tests.bench.results import Row
from tests.bench.servers import GREEDY, BenchError, call, processor_seconds, words
from tests.bench.suite import Bench, Options, main

CACHES = (10, 1000, 10_000, 100_000)
LOGGED = (10, 10_000, 1_000_000)
CANISTERS = (1, 10, 100)
CONTEXTS = (1000, 4000, 16_000, 32_000)
MEGABYTES = (50, 500, 5000)
CALLS = 24
N_WARM = 5
ONE_TOKEN = ("--prompt-cache-all", *GREEDY, "-n", "2")  # the last one is not decoded, nor counted
PARTS = json.dumps({"decode": 10**9})
GOAL = 1.3
CURVES = "growth_curves.json"


@dataclass(frozen=True, slots=True)
class Curve:
    """What something takes, by the number of what there is; it may not grow. fewest: numbers below it are told, but not
    compared with, since a page is not full there, or so few hide behind what is there once.
    """

    name: str
    unit: str
    by: str
    points: list[tuple[int, float]] = field(default_factory=list)
    fewest: int = 0

    def add(self, n: int, value: float) -> None:
        self.points.append((n, value))
        print(f"  {self.name:60} {n:>9} {self.by:14} {value:10.3f} {self.unit}", flush=True)

    def row(self) -> Row:
        """The last point against the first one that says something."""
        compared = [point for point in self.points if point[0] >= self.fewest] or self.points
        (n_first, first), (n_last, last) = compared[0], compared[-1]
        told = ", ".join(f"{value:.3g} at {n:,}".replace(",", " ") for n, value in self.points)
        return Row(
            f"{self.name}: {n_last:,} {self.by} against {n_first:,}".replace(",", " "),
            last,
            first,
            self.unit,
            last / first,
            GOAL,
            at_least=False,
            peer_name=f"{n_first:,} {self.by}".replace(",", " "),
            note=f"{told} {self.unit}",
            samples={"values": [value for _, value in self.points]},
        )


@contextmanager
def took(seconds: list[float]) -> Iterator[None]:
    """Adds the time of processors that this process took meanwhile."""
    begun = time.process_time()
    yield
    seconds.append(time.process_time() - begun)


def milliseconds(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


async def execute(canister: Canister, method: str, argument: Any, caller: str) -> Any:
    """The value of a call's reply."""
    row = dispatch.find_method(canister, method)
    reply = await dispatch.execute(canister, row, caller, lambda: argument)
    if reply.error is not None:
        raise BenchError(f"{method}: {reply.error}")
    return reply.value


# -- caches


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


# -- the call log


def calls(folder: Path, scale: float) -> list[Curve]:
    kinds = {
        "one": Curve("an update that is logged", "ms", "logged calls"),
        "newest": Curve("newest 100 of the call log", "ms", "logged calls"),
        "own": Curve("newest 100 of a caller with few calls", "ms", "logged calls"),
        "deep": Curve("100 from the middle of the log", "ms", "logged calls"),
    }
    large = growth.set_up(folder / "calls", cached("thin"), 2)
    # A canister keeps 10 000. So that more stay, the oldest are not dropped here; looking for them stays in the call.
    kept, call_log._PRUNE = (
        call_log._PRUNE,
        Prepared(
            delete(tables.call_log).where(
                tables.call_log.c.id <= select(func.max(tables.call_log.c.id)).scalar_subquery() - 10 * LOGGED[-1]
            )
        ),
    )
    try:
        for n in scaled(LOGGED, scale):
            _log(large, n)
            for kind, value in asyncio.run(_logged(large, n)).items():
                kinds[kind].add(n, value)
    finally:
        call_log._PRUNE = kept
    return [replace(curve, fewest=100) for curve in kinds.values()]


def _log(large: growth.Folder, n: int) -> None:
    """Rows until there are so many. Few of them are of the second caller."""
    with closing(sqlite3.connect(large.canister_folder / CANISTER_DATABASE)) as database, database:
        there = database.execute("SELECT count(*) FROM call_log").fetchone()[0]
        names = "caller, method, timestamp_ns, outcome, instructions, cycles, parts"
        database.executemany(
            f"INSERT INTO call_log ({names}) VALUES (?, 'run_update', 1, 'ok', 1000000000, 1000000000, ?)",
            ((large.callers[1] if k % 50_000 == 7 else f"caller-{k % 1000}", PARTS) for k in range(there, n)),
        )


async def _logged(large: growth.Folder, n: int) -> dict[str, float]:
    times: dict[str, list[float]] = {"one": [], "newest": [], "own": [], "deep": []}
    pages = {"newest": (0, None), "own": (1, None), "deep": (0, max(2, n // 2))}
    async with growth.opened(large) as (canister, _):
        for number in range(CALLS + N_WARM):
            seen = {kind: list[float]() for kind in times}
            with took(seen["one"]):
                await execute(canister, "chats_resume", None, large.callers[0])
            for kind, (whose, before) in pages.items():
                asked = CallLogInput(max_entries=100, before_id=before)
                with took(seen[kind]):
                    await execute(canister, "get_call_log", asked, large.callers[whose])
            if number >= N_WARM:
                for kind, seconds in seen.items():
                    times[kind] += seconds
    return {kind: milliseconds(seconds) for kind, seconds in times.items()}


# -- canisters


def canisters(folder: Path, scale: float) -> list[Curve]:
    one = Curve("a call of one token through HTTP, of one of them", "ms", "canisters")
    start = Curve("start until models are ready, for each further one", "ms", "canisters")
    memory = Curve("memory of the server, for each further one", "MB", "canisters")
    alone = 0.0, 0.0
    model = cached("thin")
    for n in scaled(CANISTERS, scale):
        names = [f"canister-{k}" for k in range(n)]
        flags = ("--slots", "1", "--threads", "1", "--ram-cache", "16M", "--instruction-limit", "none")
        flags += tuple(word for name in names for word in ("--canister", name))
        path = folder / f"canisters-{n}"
        with LocalServer(path, *flags) as server:
            http = Http(server.url, server.api_key)
            for name in names:
                http.put_file(f"/canisters/{name}/files/{growth.MODEL_NAME}", model)
                load = {"args": ["--model", growth.MODEL_NAME, "-c", "256"]}
                _ok(http.post(f"/canisters/{name}/load_model", load))
            http.close()
        with LocalServer(path, *flags) as server:
            growth.wait_until_ready(server)
            used = processor_seconds(server.pid), pss_megabytes(server.pid)
            if n > 1:
                start.add(n, (used[0] - alone[0]) * 1000 / (n - 1))
                memory.add(n, (used[1] - alone[1]) / (n - 1))
            alone = alone if alone[1] else used
            http = Http(server.url, server.api_key)
            seconds = []
            for number in range(CALLS + N_WARM):
                arguments = ["--prompt-cache", "c", *ONE_TOKEN, "-p", "" if number else words(16, 1)]
                before = processor_seconds(server.pid)
                record = _ok(http.post(f"/canisters/{names[-1]}/run_update", {"args": arguments}))
                if number >= N_WARM:
                    seconds.append(processor_seconds(server.pid) - before)
                    _check_one(record["n_tokens_generated"])
            one.add(n, statistics.fmean(seconds) * 1000)  # the kernel counts in hundredths
            http.close()
        shutil.rmtree(path)
    return [one, start, memory]


def _check_one(n_generated: int | None) -> None:
    if n_generated != 1:
        raise BenchError(f"a call generated {n_generated} tokens")


def _ok(answer: Any) -> Any:
    if "Ok" not in answer:
        raise BenchError(str(answer))
    return answer["Ok"]


# -- contexts


def contexts(folder: Path, scale: float) -> list[Curve]:
    bare = Curve("llama_decode of one token, alone", "ms", "tokens of context")
    whole = Curve("a call of one token, with its llama_decode", "ms", "tokens of context")
    again = Curve("first call after a start: rows come from disk", "ms", "tokens of context")
    counts = scaled(CONTEXTS, scale)
    model = cached("thin")
    large = growth.set_up(folder / "contexts", model, 1)
    alone = _alone(model, counts)
    for n in counts:
        first, later = asyncio.run(_calls_at(large, n, counts[-1] + 256))
        bare.add(n, alone[n])
        whole.add(n, milliseconds(later))
        again.add(n, first * 1000)
    return [bare, whole, again]


def _alone(model_file: Path, counts: list[int]) -> dict[int, float]:
    """Milliseconds of one `llama_decode` of a row behind so many tokens."""
    start_backend()
    model = Model(model_file, "thin")
    context = Context(model, ContextParams(1, counts[-1] + 512, 256, 1), "thin")
    n, found = 0, {}
    for count in counts:
        while n < count:
            rows = min(256, count - n)
            context.decode([0] * rows, range(n, n + rows), [300] * rows, [])
            n += rows
        seconds: list[float] = []
        for _ in range(CALLS):
            with took(seconds):
                context.decode([0], [n], [300], [0])
            n += 1
        found[count] = milliseconds(seconds)
    context.close()
    return found


async def _calls_at(large: growth.Folder, n: int, n_ctx: int) -> tuple[float, list[float]]:
    """Seconds of the first call after a start, and of later ones, of a chat of so many tokens."""
    caller, name = large.callers[0], f"context-{n}"
    async with growth.opened(large) as (canister, engine):
        load = InputRecord(args=["--model", engine.info.name, "-c", str(n_ctx)])
        await execute(canister, "load_model", load, caller)
        await run(canister, caller, name, words(n, n), "--prompt-cache-all", "-n", "0")
    first: list[float] = []
    later: list[float] = []
    async with growth.opened(large) as (canister, _):
        for number in range(CALLS):
            with took(later if number else first):
                record = await run(canister, caller, name, "", *ONE_TOKEN)
            _check_one(record.n_tokens_generated)
            if not number and abs((record.n_prompt_tokens or 0) - n) > n // 50:
                raise BenchError(f"{record.n_prompt_tokens} tokens are there instead of {n}")
    return first[0], later


# -- files


def files(folder: Path, scale: float) -> list[Curve]:
    up = Curve("upload with SHA-256 and sync, for each MB", "ms", "MB")
    down = Curve("download, for each MB", "ms", "MB")
    memory = Curve("memory of the server beside them", "MB", "MB")
    details = Curve("size and SHA-256 of the uploaded file", "ms", "MB")
    with LocalServer(folder / "files", "--instruction-limit", "none") as server:
        http = Http(server.url, server.api_key)
        for n in scaled(MEGABYTES, scale):
            source = folder / "source"
            with source.open("wb") as file:  # zeros that take no room there
                file.truncate(n * 1_000_000)
            path = f"/canisters/llama_cpp/files/large-{n}"
            used: list[float] = []
            before = processor_seconds(server.pid)
            with watched(server.pid, used):
                http.put_file(path, source)
            up.add(n, (processor_seconds(server.pid) - before) * 1000 / n)
            before = processor_seconds(server.pid)
            with watched(server.pid, used):
                _read_all(server, path, n * 1_000_000)
            down.add(n, (processor_seconds(server.pid) - before) * 1000 / n)
            memory.add(n, max(used))
            asked = []
            for _ in range(CALLS):
                begun = time.perf_counter()
                found = call(http, "uploaded_file_details", {"filename": f"large-{n}"})
                asked.append(time.perf_counter() - begun)
            if found["filesize"] != n * 1_000_000:
                raise BenchError(f"the file has {found['filesize']} bytes")
            details.add(n, milliseconds(asked))
            call(http, "filesystem_remove", {"filename": f"large-{n}"})
        http.close()
    return [up, down, memory, details]


def _read_all(server: LocalServer, path: str, n_bytes: int) -> None:
    request = urllib.request.Request(server.url + path, headers={"Authorization": f"Bearer {server.api_key}"})
    n_read = 0
    with urllib.request.urlopen(request, timeout=600) as answer:
        while block := answer.read(1 << 20):
            n_read += len(block)
    if n_read != n_bytes:
        raise BenchError(f"{n_read} bytes were read of {n_bytes}")


@contextmanager
def watched(pid: int, used: list[float]) -> Iterator[None]:
    """Adds the memory of a process, as it is several times a second."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.2):
            used.append(pss_megabytes(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        used.append(pss_megabytes(pid))


# -- all


PARTS_OF_IT = {part.__name__: part for part in (caches, calls, canisters, contexts, files)}


def scaled(counts: tuple[int, ...], scale: float) -> list[int]:
    """All of them, or two small ones to see whether it runs."""
    return list(counts) if scale == 1 else [counts[0], 2 * counts[0]]


def measure(options: Options) -> list[Row]:
    kept = options.out / CURVES
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    rows: list[Row] = []
    for name in os.environ.get("GROWTH", " ".join(PARTS_OF_IT)).split():
        with tempfile.TemporaryDirectory(prefix="canister-growth-") as folder:
            curves = PARTS_OF_IT[name](Path(folder), options.scale)
        known[name] = [asdict(curve) for curve in curves]
        options.out.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        rows += [curve.row() for curve in curves]
    return rows


BENCH = Bench("growth_data", "a data folder by what is in it", measure)

if __name__ == "__main__":
    main(BENCH)
