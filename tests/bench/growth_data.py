"""What is done with a data folder, by how much is in it: `python -m tests.bench.growth_data [--smoke]`.

    caches     what is done with all of it, and pages of lists, by the number of prompt caches (`growth_caches.py`)
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
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select

from canister.api.records import CallLogInput, InputRecord
from canister.client.local_server import LocalServer
from canister.engine.llama import Context, Model
from canister.engine.llama_build import start_backend
from canister.engine.llama_types import ContextParams
from canister.state import call_log
from canister.store import tables
from canister.store.statements import Prepared
from canister.system.data_dir import CANISTER_DATABASE
from models.make_bench_model import cached
from tests.bench import growth
from tests.bench.growth_caches import caches
from tests.bench.growth_curve import CALLS, Curve, execute, milliseconds, scaled, took
from tests.bench.growth_fill import run
from tests.bench.http_client import Http
from tests.bench.memory import pss_megabytes
from tests.bench.results import Row
from tests.bench.servers import GREEDY, BenchError, call, processor_seconds, words
from tests.bench.suite import Bench, Options, main

LOGGED = (10, 10_000, 1_000_000)
CANISTERS = (1, 10, 100)
CONTEXTS = (1000, 4000, 16_000, 32_000)
MEGABYTES = (50, 500, 5000)
N_WARM = 5
ONE_TOKEN = ("--prompt-cache-all", *GREEDY, "-n", "2")  # the last one is not decoded, nor counted
PARTS = json.dumps({"decode": 10**9})
CURVES = "growth_curves.json"


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
