"""What every benchmark shares: its options, rounds that alternate, calls that run at the same time, the end report."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from models.make_bench_model import FILE_TYPES, SHAPES, cached
from tests.bench import results
from tests.bench.results import Report, Row
from tests.bench.servers import Chat, Server

DEFAULT_ROUNDS = 10
QUICK_ROUNDS = 3
TOKENS_PER_CALL = 10
N_CTX = 1024  # tokens of a chat
SPARE_TOKENS = 64
RESULTS = Path("build/bench")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """scale: prompts and numbers of chats are multiplied by it; 1 is what the goals are for."""

    model: Path
    rounds: int
    threads: int
    scale: float
    out: Path
    llama_server: Path | None

    def scaled(self, n: int, at_least: int = 1) -> int:
        return max(at_least, round(n * self.scale))


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark: its name is its module's and its file's."""

    name: str
    title: str
    measure: Callable[[Options], list[Row]]


def main(*benches: Bench) -> None:
    """Command line of one benchmark, or of all."""
    parser = argparse.ArgumentParser(description="; ".join(bench.title for bench in benches))
    add_options(parser)
    options = read_options(parser.parse_args())
    end_by_signal()
    failed = [bench.name for bench in benches if not run(bench, options)]
    sys.exit(1 if failed else 0)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help=f"how often each figure is taken; default {DEFAULT_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds")
    parser.add_argument("--smoke", action="store_true", help="one round of everything, small: does it run?")
    parser.add_argument("--model", type=Path, help="a GGUF instead of one that is made")
    parser.add_argument("--shape", choices=SHAPES, default="q05", help="of the model that is made; default q05")
    parser.add_argument("--type", choices=FILE_TYPES, default="Q8_0", help="of the model that is made; default Q8_0")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder for results; default {RESULTS}")
    parser.add_argument(
        "--llama-server",
        type=Path,
        default=os.environ.get("LLAMA_SERVER"),
        help="a llama-server that is there already; default LLAMA_SERVER, or the one that tests.bench.peers builds",
    )


def read_options(given: argparse.Namespace) -> Options:
    rounds = given.rounds or (1 if given.smoke else QUICK_ROUNDS if given.quick else DEFAULT_ROUNDS)
    model: Path = given.model or cached(given.shape, given.type)
    if not model.is_file():
        sys.exit(f"--model {model} is not a file")
    return Options(
        model=model.resolve(),
        rounds=rounds,
        threads=given.threads,
        scale=0.1 if given.smoke else 1.0,
        out=given.out,
        llama_server=given.llama_server,
    )


def run(bench: Bench, options: Options) -> bool:
    """Measure, print, save; False if it failed. A goal that is missed is no failure: the table tells it."""
    print(f"\n== {bench.name}: {bench.title}", flush=True)
    machine = results.machine()
    begun = time.perf_counter()
    try:
        rows = bench.measure(options)
    except Exception as error:  # the other benchmarks go on
        print(f"{bench.name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return False
    seconds = time.perf_counter() - begun
    report = Report(bench.name, bench.title, machine, options.model.name, options.rounds, round(seconds, 1), rows)
    path = results.save(options.out, report)
    print(f"{results.table(rows)}\n{seconds:.0f} s, {options.rounds} rounds, {options.model.name}: {path}", flush=True)
    return True


def end_by_signal() -> None:
    """Leave through the `finally`s when told to end, so that no server stays behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


# -- rounds


def context_for(n_tokens: int) -> int:
    """A context that holds so many tokens of a chat, and is the usual one where that is enough."""
    return max(N_CTX, -(-(n_tokens + SPARE_TOKENS) // 256) * 256)


def alternating(sides: Sequence[T], number: int) -> list[T]:
    """The sides in an order that shifts from round to round: none is always the first or behind the same one."""
    shift = number % len(sides)
    return [*sides[shift:], *sides[:shift]]


def together(work: Sequence[Callable[[], object]], at_once: int | None = None) -> float:
    """Run all of it in threads that start together; gives seconds until the last is done. Raises what one raises."""
    n_threads = min(at_once or len(work), len(work))
    barrier = threading.Barrier(n_threads + 1)

    with ThreadPoolExecutor(n_threads) as pool:
        waiting = [pool.submit(barrier.wait) for _ in range(n_threads)]
        barrier.wait()
        for each in waiting:
            each.result()
        begun = time.perf_counter()
        for running in [pool.submit(each) for each in work]:
            running.result()
        return time.perf_counter() - begun


def begin(server: Server, chats: Sequence[Chat], prompts: Sequence[str], at_once: int = 1) -> None:
    """Take all prompts in."""
    server.prepare(0)
    pairs = zip(chats, prompts, strict=True)
    together([partial(chat.begin, prompt) for chat, prompt in pairs], at_once)


def tokens_per_second(server: Server, chats: Sequence[Chat], n_calls: int, n_tokens: int = TOKENS_PER_CALL) -> float:
    """All chats go on at the same time, each by so many calls of so many tokens."""
    server.prepare(n_tokens)

    def go_on(chat: Chat) -> None:
        for _ in range(n_calls):
            chat.go_on(n_tokens)

    seconds = together([partial(go_on, chat) for chat in chats])
    return len(chats) * n_calls * n_tokens / seconds
