"""Does a call take longer where there are more chats? By the number of prompt caches: of one caller, and of 10 000.

    python -m tests.bench.growth [--rounds N] [--smoke]

Two canisters stand side by side, one with ten prompt caches, one that grows; their calls alternate, so that a figure is
a ratio of times of the same minute. Everything of a cache is there, as a call leaves it: container, sidecar, rows in
SQL, and its state parked in memory. They are written without calls (`growth_fill.py`); the KV rows are those of one
chat. The model is a thin one (shape `thin`), so that nothing hides behind decoding.

In one process: calls through dispatch, with all states in memory; the time that they take, and that of all processors
together, which a busy machine disturbs less. After a restart of a server on each folder: the time
until it is ready, and calls through HTTP, of chats that nobody has used since.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from canister.client.local_server import LocalServer
from canister.config import Settings
from canister.engine.engine import Engine
from canister.engine.kv.slots import ParkedState
from canister.engine.request import Flags
from canister.ic import principal as principals
from canister.ic.identity import Identity
from canister.runtime.canister import Canister
from canister.state.api_keys import open_keys
from canister.store.cache_paths import SIDECAR, sessions_of
from canister.system.data_dir import CANISTERS
from models.make_bench_model import cached
from tests.bench.growth_fill import ARGS, PROMPT_TOKENS, Template, lay_down, run
from tests.bench.http_client import Http, HttpError
from tests.bench.results import Row
from tests.bench.servers import BenchError, call, words
from tests.bench.suite import Bench, Options, alternating, main
from tests.harness import someone

COUNTS = (10, 1000, 10_000, 100_000)
MANY = 10_000  # callers
CALLS = 12  # of a round
N_WARM = 5
REGULARS = 10
GOAL = 1.2
GOAL_RESTART_SECONDS = 3.0
MODEL_NAME = "models/model.gguf"
LIMITS = {"max_cache_files_per_caller": 1_000_000, "max_files": 2_000_000}
SHAPE = {"slots": 4, "threads": 1, "ram_cache": "4G"}
FLAGS = ("--slots", "4", "--threads", "1", "--ram-cache", "4G", "--instruction-limit", "none")
LIMIT_FLAGS = ("--max-cache-files-per-caller", "1000000", "--max-files", "2000000")

OLD, NEW = (f"through HTTP after a restart: {kind}" for kind in ("an older chat's next call", "a new chat's call"))

Times = dict[str, list[float]]


@dataclass
class Folder:
    """A data folder of a server, how many caches its canister has, and whose the n-th is."""

    path: Path
    callers: list[str]
    n_caches: int = 0
    keys: dict[str, str] = field(default_factory=dict)  # API key by caller
    used: Iterator[int] = field(default_factory=itertools.count)  # numbers of chats that were begun for a figure

    def caller(self, n: int) -> str:
        return self.callers[n % len(self.callers)]

    def regulars(self) -> list[int]:
        """Some of its chats, whose callers begin others."""
        return random.Random(1).sample(range(self.n_caches), min(REGULARS, self.n_caches))

    @property
    def canister_folder(self) -> Path:
        return self.path / CANISTERS / principals.canister_id(0)


def measure(options: Options) -> list[Row]:
    counts = [max(10, round(n * (0.01 if options.scale < 1 else 1))) for n in COUNTS]
    rows: list[Row] = []
    for title, n_callers in (("of one caller", 1), (f"of {MANY:,} callers".replace(",", " "), MANY)):
        with tempfile.TemporaryDirectory(prefix="canister-growth-") as folder:
            rows += _measure_callers(Path(folder), title, min(n_callers, counts[-1]), counts, options.rounds)
    return rows


def _measure_callers(folder: Path, title: str, n_callers: int, counts: list[int], n_rounds: int) -> list[Row]:
    model = cached("thin")
    small, large = (set_up(folder / name, model, n_callers) for name in ("small", "large"))
    ratios: dict[str, list[float]] = {}
    last: dict[str, tuple[float, float]] = {}
    samples: Times = {}
    restarts: list[float] = []
    for count in counts:
        small_times, large_times = asyncio.run(_in_one_process(small, large, count, n_rounds))
        _after_a_restart(small, large, n_rounds, small_times, large_times, restarts)
        for kind, times in large_times.items():
            ours, peer = statistics.median(times), statistics.median(small_times[kind])
            ratios.setdefault(kind, []).append(ours / peer)
            last[kind] = ours, peer
            samples[f"{kind} at {count}"] = times
            samples[f"{kind} at {counts[0]}, beside {count}"] = small_times[kind]
            print(f"  {count:>7} caches {title}: {kind:60} {ours * 1000:8.2f} ms {ours / peer:6.2f} ×", flush=True)
        print(f"  {count:>7} caches {title}: restart to ready {restarts[-1]:.2f} s", flush=True)
    note = ", ".join(f"{count:,}".replace(",", " ") for count in counts)
    rows = [
        Row(
            f"{kind}: {counts[-1]:,} prompt caches {title} against {counts[0]}".replace(",", " "),
            last[kind][0] * 1000,
            last[kind][1] * 1000,
            "ms",
            each[-1],
            GOAL,
            at_least=False,
            peer_name=f"{counts[0]} caches",
            note=f"at {note}: " + ", ".join(f"{ratio:.2f}" for ratio in each) + " ×",
            samples={name: times for name, times in samples.items() if name.startswith(kind)},
        )
        for kind, each in ratios.items()
    ]
    rows.append(
        Row(
            f"restart to ready with {counts[-1]:,} prompt caches {title}".replace(",", " "),
            restarts[-1],
            None,
            "s",
            restarts[-1],
            GOAL_RESTART_SECONDS,
            at_least=False,
            figure_unit="s",
            note=f"at {note}: " + ", ".join(f"{seconds:.2f}" for seconds in restarts) + " s",
            samples={"ours": restarts},
        )
    )
    return rows


# -- folders


def set_up(path: Path, model: Path, n_callers: int) -> Folder:
    """A data folder with the model loaded, open to all callers, each of whom has a key."""
    with LocalServer(path, *FLAGS, *LIMIT_FLAGS, "-m", str(model)) as server:
        wait_until_ready(server)
        admin = Http(server.url, server.api_key)
        call(admin, "set_access", {"level": 1})
        admin.close()
    controller = Identity.from_pem((path / "controller.pem").read_bytes()).principal
    callers = [controller, *(someone(n) for n in range(1, n_callers))]
    folder = Folder(path, callers, keys={controller: (path / "controller.key").read_text(encoding="ascii").strip()})
    with open_keys(path) as ring:
        for n, caller in enumerate(callers[1:]):
            folder.keys[caller] = ring.create(f"caller-{n}", caller)
    return folder


def wait_until_ready(server: LocalServer) -> None:
    while True:
        http = Http(server.url)
        try:
            http.get("/readyz")
            return
        except (HttpError, OSError):
            time.sleep(0.005)
        finally:
            http.close()


@asynccontextmanager
async def opened(folder: Folder) -> AsyncIterator[tuple[Canister, Engine]]:
    settings = Settings(data_dir=folder.path, instruction_limit=None, **SHAPE, **LIMITS)
    canister = Canister(
        principals.canister_id(0), "llama_cpp", folder.canister_folder, folder.callers[:1], settings.every_canister
    )
    await canister.start()
    try:
        await canister.model.loaded()
        engine = canister.model.engine
        if engine is None:
            raise BenchError(f"the model could not be loaded: {canister.model.load_error}")
        yield canister, engine
    finally:
        await canister.stop(5)


# -- filling


async def fill(folder: Folder, count: int) -> None:
    """Write caches until there are so many."""
    async with opened(folder) as (canister, engine):
        template = await Template.of(canister, engine, folder.callers[0])
        wanted = [
            (folder.caller(n), str(n), template.tokens(engine, n))
            for n in range(count)
            if canister.stable.stat(f"{sessions_of(folder.caller(n))}/{n}") is None
        ]
    lay_down(folder.canister_folder, template, iter(wanted))
    folder.n_caches = count


async def park(canister: Canister, engine: Engine, folder: Folder) -> None:
    """Put the states of all caches into memory, as those of calls of this run."""
    template = await Template.of(canister, engine, folder.callers[0])
    for n in range(folder.n_caches):
        tokens = template.tokens(engine, n)
        generated: Flags = np.zeros(len(tokens), np.bool_)
        marks, logits = (tokens, generated, generated.copy()), template.logits
        caller = folder.caller(n)
        path = f"{sessions_of(caller)}/{n}"
        parked = ParkedState(path, caller, *marks, logits, len(tokens), template.state.copy())
        engine.prefetcher._slot_table.state_cache.put(parked)


# -- calls in this process


async def _in_one_process(small: Folder, large: Folder, count: int, n_rounds: int) -> tuple[Times, Times]:
    """Times of the small canister and of the large one, which has `count` caches then."""
    both: tuple[Times, Times] = {}, {}
    for folder, n in ((small, COUNTS[0]), (large, count)):
        await fill(folder, n)
    async with AsyncExitStack() as stack:
        pair = [await stack.enter_async_context(opened(folder)) for folder in (small, large)]
        for (canister, engine), folder in zip(pair, (small, large), strict=True):
            await park(canister, engine, folder)
        sides = [*zip(pair, (small, large), both, strict=True)]
        for (canister, _), folder, _ in sides:
            for n in folder.regulars():  # who has looked something up since the start does not list its caches again
                await run(canister, folder.caller(n), f"regular-{next(folder.used)}", words(PROMPT_TOKENS, n))
        for number in range(n_rounds * CALLS + N_WARM):
            for (canister, _), folder, times in alternating(sides, number):
                seen = await _round(canister, folder)
                if number >= N_WARM:
                    for kind, seconds in seen.items():
                        times.setdefault(kind, []).append(seconds)
    return both


async def _round(canister: Canister, folder: Folder) -> dict[str, float]:
    """One call of each kind."""
    number = next(folder.used)
    rng = random.Random(number)
    old, like = rng.randrange(folder.n_caches), rng.choice(folder.regulars())
    caller, name = folder.caller(rng.choice(folder.regulars())), f"new-{number}"
    known = words(PROMPT_TOKENS - 8, like) + words(8, f"new-{number}")

    # It was not used for so long that of all that is remembered only its state is left, in both canisters.
    path = f"{sessions_of(folder.caller(old))}/{old}"
    canister.caches._open.pop(path, None)
    canister.caches.sidecars.pop(path + SIDECAR, None)

    seen: dict[str, float] = {}
    for kind, whose, which, prompt in (
        ("a new chat's call", caller, name, words(PROMPT_TOKENS, name)),
        ("its next call", caller, name, ""),
        ("a call of a new chat that begins like another", folder.caller(like), f"like-{number}", known),
        ("an older chat's next call", folder.caller(old), str(old), ""),
    ):
        begun, processor = time.perf_counter(), time.process_time()
        await run(canister, whose, which, prompt)
        seen[kind] = time.perf_counter() - begun
        seen[f"{kind}, time of processors"] = time.process_time() - processor
    return seen


# -- calls of servers that were started again


def _after_a_restart(
    small: Folder, large: Folder, n_rounds: int, small_times: Times, large_times: Times, restarts: list[float]
) -> None:
    """Adds the times of calls through HTTP, and how long the large one took until it was ready (the median)."""
    seconds: list[float] = []
    for number in range(max(1, n_rounds // 3)):
        with ExitStack() as stack:
            servers = {}
            for folder in (small, large):
                begun = time.perf_counter()
                server = servers[folder.path] = stack.enter_context(LocalServer(folder.path, *FLAGS, *LIMIT_FLAGS))
                wait_until_ready(server)
            seconds.append(time.perf_counter() - begun)
            sides = [*zip((small, large), (small_times, large_times), strict=True)]
            olds = {folder.path: random.Random(number).sample(range(folder.n_caches), COUNTS[0]) for folder, _ in sides}
            for n in range(COUNTS[0]):
                for folder, times in alternating(sides, n):
                    server, old = servers[folder.path], olds[folder.path][n]
                    http = Http(server.url, folder.keys[folder.caller(old)])
                    new = f"http-{number}-{n}"
                    for kind, name, prompt in ((OLD, str(old), ""), (NEW, new, words(PROMPT_TOKENS, new))):
                        argument = {"args": ["--prompt-cache", name, *ARGS, "-p", prompt]}
                        begun = time.perf_counter()
                        call(http, "run_update", argument)
                        times.setdefault(kind, []).append(time.perf_counter() - begun)
                    http.close()
    restarts.append(statistics.median(seconds))


BENCH = Bench("growth", "calls and a restart by the number of prompt caches", measure)

if __name__ == "__main__":
    main(BENCH)
