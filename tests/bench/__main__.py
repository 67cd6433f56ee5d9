"""`make bench`: all benchmarks, one after the other; docs/benchmarks.md tells what they mean.

Those that take peers and rounds come first, and give one table at the end; with --all also the figures of single parts.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.bench import (
    ao,
    calls,
    cancel,
    candid,
    eight_chats,
    grammars,
    growth,
    growth_data,
    herd,
    ic_door,
    many_chats,
    memory,
    meter,
    one_chat,
    openai_door,
    overhead,
    peers,
    prefill,
    python_server,
    report,
    restart,
    small_calls,
    speculation,
    suite,
    uploads,
    warm,
)

BENCHES = (
    one_chat.BENCH,
    eight_chats.BENCH,
    many_chats.BENCH,
    restart.BENCH,
    python_server.BENCH,
    overhead.BENCH,
    warm.BENCH,
    uploads.BENCH,
    cancel.BENCH,
    memory.BENCH,
    small_calls.BENCH,
    growth.BENCH,
    growth_data.BENCH,
    openai_door.BENCH,
    prefill.BENCH,
    speculation.BENCH,
    herd.BENCH,
    ao.BENCH,
)
BESIDE_LLAMA_SERVER = (
    "one_chat",
    "eight_chats",
    "many_chats",
    "restart",
    "openai_door",
    "prefill",
    "small_calls",
    "speculation",
)  # the others need not wait for its build
PARTS = (("calls", calls), ("candid", candid), ("grammars", grammars), ("ic_door", ic_door), ("meter", meter))


def main() -> int:
    names = [bench.name for bench in BENCHES]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="All benchmarks, or some.")
    suite.add_options(parser)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--minutes", type=float, default=45.0, help="begin no other benchmark after that; default 45")
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(name for name, _ in PARTS)}")
    given = parser.parse_args()
    options = suite.read_options(given)
    suite.end_by_signal()
    if not set(given.only).isdisjoint(BESIDE_LLAMA_SERVER):
        ours, theirs = peers.both_features(peers.llama_server(options.llama_server))
        print(f"llama.cpp, ours: {ours}\nllama-server:    {theirs}", flush=True)
        if ours != theirs:
            print("They are compiled differently: what is compared is not only us.", file=sys.stderr)

    end = time.monotonic() + given.minutes * 60
    failed, left_out = [], []
    for bench in BENCHES:
        if bench.name not in given.only:
            continue
        if time.monotonic() > end:
            left_out.append(bench.name)
        elif not suite.run(bench, options):
            failed.append(bench.name)
    if given.all:
        for name, part in PARTS:
            print(f"\n== tests.bench.{name}", flush=True)
            part.main()
    print()
    print(report.summary(options.out), flush=True)
    for what, which in (("failed", failed), (f"left out after {given.minutes:g} minutes", left_out)):
        if which:
            print(f"{what}: {', '.join(which)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
