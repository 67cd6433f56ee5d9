"""Whole answers inside a process: `python -m tests.bench.answers MODEL [--rounds N]`.

Time to the first token of a long prompt, under the default instruction limit (some thirty calls, each durable) and
without one (calls cut by time alone), in turns; and the event loop's CPU time of each token that is streamed after it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from canister.dispatch import Answered, Piece, Wanted, answers
from canister.flags.params import SamplingParams
from tests.harness import CONTROLLER, Harness, canister_in

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


async def first_token(harness: Harness, n_prompt: int, number: int) -> tuple[float, float, int]:
    """Seconds to the first token, of the engine's prompt decodes, and calls of an answer to a prompt of its own."""
    engine = harness.canister.model.engine
    assert engine is not None
    chance = Random(number)
    prompt = [chance.randrange(300, engine.info.n_vocab // 2) for _ in range(n_prompt)]
    wanted = Wanted(prompt, GREEDY, seed=1, max_tokens=2, reuses=False)
    started, first, n_calls = time.perf_counter(), 0.0, 0
    busy = engine.stats().busy_seconds
    async for event in answers.answer(harness.canister, CONTROLLER, wanted):
        if isinstance(event, Piece) and not first:
            first = time.perf_counter() - started
            busy = engine.stats().busy_seconds - busy
        if isinstance(event, Answered):
            n_calls = event.n_calls
    return first, busy, n_calls


async def cpu_of_a_token(harness: Harness, n_tokens: int) -> float:
    """Seconds of CPU of the event loop's thread, for each streamed token, the door's encoding not included."""
    wanted = Wanted([1, 2, 3], GREEDY, seed=1, max_tokens=n_tokens, reuses=False)
    n, started = 0, time.thread_time()
    async for event in answers.answer(harness.canister, CONTROLLER, wanted):
        if isinstance(event, Piece):
            n += len(event.tokens)
    return (time.thread_time() - started) / n


async def measure(model: Path, n_prompt: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        async with (
            canister_in(root / "limited") as limited,
            canister_in(root / "free", instruction_limit=None, slice_seconds=3600) as free,
        ):
            for harness in (limited, free):
                await harness.load(model, "--ctx-size", "2048")
            found: dict[str, list[tuple[float, float, int]]] = {"limited": [], "free": []}
            for number in range(rounds + 1):
                for name, harness in (("limited", limited), ("free", free)):
                    told = await first_token(harness, n_prompt, number)
                    if number:  # the first round warms up
                        found[name].append(told)
            for name, times in found.items():
                seconds = statistics.median(first for first, _, _ in times)
                busy = statistics.median(busy for _, busy, _ in times)
                print(f"{name}: first token {seconds:.3f} s, engine {busy:.3f} s, {times[0][2]} calls")
            ratios = [a[0] / b[0] for a, b in zip(found["limited"], found["free"], strict=True)]
            print(f"first token, limited against free: {statistics.median(ratios):.3f}")
            print(f"CPU of a streamed token: {1e6 * await cpu_of_a_token(free, 200):.0f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=sys.modules[__name__].__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", type=int, default=1000, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    asyncio.run(measure(given.model, given.prompt, given.rounds))


if __name__ == "__main__":
    main()
