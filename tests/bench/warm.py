"""What was computed is not computed again: a shared system prompt, a long chat on disk."""

from __future__ import annotations

import statistics
import time

from canister.defaults import UPDATE_LIMIT
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, OurChat, Ours, known, words
from tests.bench.suite import Bench, Options, main

SYSTEM_TOKENS = 1000
QUESTION_TOKENS = 10
LONG_TOKENS = 2000


def measure(options: Options) -> list[Row]:
    return [_prefix_row(options), _prefix_row(options, limit=str(UPDATE_LIMIT)), *_restore_rows(options)]


def _prefix_row(options: Options, limit: str = "none") -> Row:
    """Each round has a system prompt of its own; the first chat takes it in, the second begins with the same.

    limit: of instructions. With one a prompt takes many calls, each of which commits what it was granted.
    """
    n_system = options.scaled(SYSTEM_TOKENS, 50)
    first: list[float] = []
    second: list[float] = []
    with _server(options, n_ctx=2048, slots=4, flags=("--instruction-limit", limit)) as server:
        warm = server.chat("warm")
        _first_token(warm, words(10, "warm"))
        warm.close()
        for number in range(options.rounds):
            system = words(n_system, number)
            for n, seconds in enumerate((first, second)):
                chat = server.chat(f"prefix-{number}-{n}")
                seconds.append(_first_token(chat, system + words(QUESTION_TOKENS, (number, n))))
                chat.close()
    what = f"time to first token of a second chat with the same {n_system}-token system prompt"
    return ratio_row(
        f"{what}, against the first" if limit == "none" else f"{what}, default instruction limit, against the first",
        second,
        first,
        unit="ms",
        factor=1000,
        goal=1 / 20 if limit == "none" else 0.15,
        at_least=False,
        peer_name="the first chat",
    )


def _first_token(chat: OurChat, prompt: str) -> float:
    begun = time.perf_counter()
    while chat.run(prompt, "-n", "1")["n_prompt_tokens_remaining"]:
        pass
    return time.perf_counter() - begun


def _restore_rows(options: Options) -> list[Row]:
    """A restart empties slots and memory; a chat's next call of one token then is longer than the one behind it."""
    n_prompt = options.scaled(LONG_TOKENS, 100)
    prefill: list[float] = []
    restore: list[float] = []
    calls: list[float] = []
    with _server(options, n_ctx=2304, slots=2) as server:
        server.prepare(0)
        for number in range(options.rounds):
            chat = server.chat(f"long-{number}")
            begun = time.perf_counter()
            chat.begin(words(n_prompt, number))
            prefill.append(time.perf_counter() - begun)
            chat.close()
        server.restart()
        server.prepare(0)
        warm = server.chat("warm")
        warm.begin(words(10, "warm"))
        server.prepare(1)
        warm.go_on(1)
        warm.close()
        for number in range(options.rounds):
            chat = server.chat(f"long-{number}")
            times = []
            for _ in range(4):
                begun = time.perf_counter()
                chat.go_on(1)
                times.append(time.perf_counter() - begun)
            calls.append(times[0])
            # Not below a tenth of a millisecond: the clock's noise is no speed.
            restore.append(max(times[0] - statistics.median(times[1:]), 1e-4))
            chat.close()
    what = f"a {n_prompt}-token chat from disk"
    return [
        ratio_row(
            f"restore of {what}, against prefilling it",
            restore,
            prefill,
            unit="ms",
            factor=1000,
            goal=200,
            inverse=True,
            peer_name="prefilling",
            note="first call of one token after a restart, minus the next one",
        ),
        ratio_row(
            f"whole first call of one token of {what}, against prefilling it",
            calls,
            prefill,
            unit="ms",
            factor=1000,
            goal=None,
            inverse=True,
            peer_name="prefilling",
        ),
    ]


def _server(options: Options, *, n_ctx: int, slots: int, flags: tuple[str, ...] = ()) -> Ours:
    flags = (*known("--exact", "auto"), *flags)
    return Ours(EXACT, options.model, n_ctx=n_ctx, slots=slots, threads=options.threads, flags=flags)


BENCH = Bench("warm", "a shared system prompt, and a chat restored from disk", measure)

if __name__ == "__main__":
    main(BENCH)
