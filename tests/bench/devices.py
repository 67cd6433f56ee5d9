"""What graphics cards give: `python -m tests.bench.devices`, on a build of llama-cpp-python that can offload.

The same model twice: computed by the processor, and with all layers and KV rows on the devices. Beside speeds, what a
device must not change is compared: a chat has the same text in one call and cut into calls, alone and beside seven
others, where the server says that it decodes exactly. --smoke runs on any build, where both sides are the processor.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.bench.results import Row, ratio_row
from tests.bench.servers import BenchError, Ours, known, words
from tests.bench.suite import TOKENS_PER_CALL, Bench, Options, alternating, begin, main, together, tokens_per_second

PROMPT_TOKENS = 100
LONG_TOKENS = 2000
CHATS = 8
CALLS = 8
N_CTX = 2560
PROCESSOR, DEVICES = "the processor", "devices"
PLACES = {PROCESSOR: (), DEVICES: ("--n-gpu-layers", "all")}


def measure(options: Options) -> list[Row]:
    n_prompt, n_long, n_calls = (
        options.scaled(n, least) for n, least in ((PROMPT_TOKENS, 10), (LONG_TOKENS, 50), (CALLS, 2))
    )
    rates: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                Ours(
                    place,
                    options.model,
                    n_ctx=N_CTX,
                    slots=CHATS,
                    threads=options.threads,
                    flags=known("--exact", "auto"),
                    load_flags=flags,
                )
            )
            for place, flags in PLACES.items()
        ]
        told = {server.label: _engine(server) for server in servers}
        if not told[DEVICES]["devices"]["gpu_layers"] and options.scale == 1:
            raise BenchError(f"there is nothing to measure: {'; '.join(told[DEVICES]['devices']['notes'])}")
        for server in servers:
            _check_texts(server, n_prompt, told[server.label]["exact"]["is_exact"])
        for number in range(options.rounds):
            for server in alternating(servers, number):
                for what, rate in _round(server, number, n_prompt, n_long, n_calls).items():
                    rates.setdefault(what, {}).setdefault(server.label, []).append(rate)
    note = f"{', '.join(told[DEVICES]['devices']['computing'])}; exact: {told[DEVICES]['exact']['why']}"
    return [
        ratio_row(
            f"{what}, all layers on devices, against the processor",
            by_place[DEVICES],
            by_place[PROCESSOR],
            unit="tok/s",
            goal=None,
            peer_name=PROCESSOR,
            note=note,
        )
        for what, by_place in rates.items()
    ]


def _engine(server: Ours) -> dict[str, Any]:
    """What the server tells of its engine."""
    http = server.http()
    try:
        engine: dict[str, Any] = json.loads(http.get("/canisters/llama_cpp/engine"))
        return engine
    finally:
        http.close()


def _round(server: Ours, number: int, n_prompt: int, n_long: int, n_calls: int) -> dict[str, float]:
    """Tokens per second by what was done."""
    rates: dict[str, float] = {}
    chats = [server.chat(f"device-{number}-{n}") for n in range(CHATS)]
    begin(server, chats, [words(n_prompt, f"{number}-{n}") for n in range(CHATS)])
    for what, some in (("one chat, 10 tokens per call", chats[:1]), (f"{CHATS} chats, 10 tokens per call", chats)):
        tokens_per_second(server, some, 1)
        rates[what] = tokens_per_second(server, some, n_calls)
    long = server.chat(f"device-{number}-long")
    server.prepare(0)
    begun = time.perf_counter()
    long.begin(words(n_long, f"long-{number}"))
    rates[f"a prompt of {n_long} tokens"] = n_long / (time.perf_counter() - begun)
    for chat in (*chats, long):
        chat.close()
    return rates


def _check_texts(server: Ours, n_prompt: int, is_exact: bool) -> None:
    """BenchError where the text of a chat depends on how it is cut, or on its neighbours, and must not."""
    texts = [
        _text(server, n_prompt, n_calls, n_neighbours, 4 * TOKENS_PER_CALL // n_calls)
        for n_calls, n_neighbours in ((1, 0), (4, 0), (4, CHATS - 1))
    ]
    if is_exact and len(set(texts)) > 1:
        raise BenchError(f"{server.label}: the text of a chat depends on its calls or neighbours: {texts}")


def _text(server: Ours, n_prompt: int, n_calls: int, n_neighbours: int, n_tokens: int) -> str:
    """Of a chat that goes on by so many calls, beside others that do the same."""
    chats = [server.chat(f"text-{n_calls}-{n_neighbours}-{n}") for n in range(1 + n_neighbours)]
    begin(server, chats, [words(n_prompt, f"text-{n}") for n in range(len(chats))])
    server.prepare(n_tokens)
    for _ in range(n_calls - 1):
        together([partial(chat.go_on, n_tokens) for chat in chats])
    told: list[str] = []

    def last() -> None:
        told.append(chats[0].run("")["conversation"])

    together([last, *(partial(chat.go_on, n_tokens) for chat in chats[1:])])
    for chat in chats:
        chat.close()
    return told[0]


BENCH = Bench("devices", "what graphics cards give", measure)

if __name__ == "__main__":
    main(BENCH)
