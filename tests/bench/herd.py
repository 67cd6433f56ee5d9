"""A herd beside separate servers, and what its door costs.

Two workers of one thread each against two servers of one thread each, with the same chats on both. Then, on the shipped
model, the CPU time of the door's process: a call of one token, and each token of streamed answers. A part alone:
`python -m tests.bench.herd rate`, `call` or `token`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, BenchError, Herd, OurChat, Ours, words
from tests.bench.suite import TOKENS_PER_CALL, Bench, Options, alternating, begin, context_for, main, together
from tests.harness import CHAT_MODEL

SERVERS = 2
CHATS = 4  # of each server
PROMPT_TOKENS = 100
CALLS = 3  # of a chat and a round
TINY_CALLS = 100
AT_ONCE = 8  # chats whose calls may share commits
STREAMS = 8
STREAM_TOKENS = 200
GOAL_RATIO = 0.9
GOAL_CALL_MS = 1.0
GOAL_TOKEN_US = 50.0
HERD, SEPARATE = "herd of two workers", "two servers"


def measure(options: Options) -> list[Row]:
    return [row for part in PARTS for row in PARTS[part](options)]


def _rate_rows(options: Options) -> list[Row]:
    """All chats go on at once, by calls of ten tokens."""
    n_chats = options.scaled(CHATS, 1)
    n_prompt = options.scaled(PROMPT_TOKENS, 10)
    n_ctx = context_for(n_prompt + TOKENS_PER_CALL * (CALLS * options.rounds + 1))
    shape = {"n_ctx": n_ctx, "slots": CHATS, "threads": 1}
    rates: dict[str, list[float]] = {HERD: [], SEPARATE: []}
    with ExitStack() as stack:
        herd = stack.enter_context(Herd(HERD, options.model, workers=SERVERS, **shape))
        alone = [stack.enter_context(Ours(EXACT, options.model, **shape)) for _ in range(SERVERS)]
        of_herd = [herd.chat(f"herd-{n}") for n in range(SERVERS * n_chats)]
        of_alone = [[server.chat(f"alone-{n}") for n in range(n_chats)] for server in alone]
        begin(herd, of_herd, [words(n_prompt, n) for n in range(len(of_herd))], len(of_herd))
        for server, chats in zip(alone, of_alone, strict=True):
            begin(server, chats, [words(n_prompt, n) for n in range(n_chats)])
        for server in (herd, *alone):
            server.prepare(TOKENS_PER_CALL)
        sides = {HERD: of_herd, SEPARATE: [chat for chats in of_alone for chat in chats]}
        for number in range(options.rounds + 1):
            for side in alternating(list(sides), number):
                seconds = together([partial(_go_on, chat) for chat in sides[side]])
                if number:  # the first round warms up
                    rates[side].append(len(sides[side]) * CALLS * TOKENS_PER_CALL / seconds)
    what = f"{SERVERS * n_chats} chats, a {HERD}, against {SEPARATE}"
    return [ratio_row(what, rates[HERD], rates[SEPARATE], unit="tok/s", goal=GOAL_RATIO, peer_name=SEPARATE)]


def _go_on(chat: OurChat) -> None:
    for _ in range(CALLS):
        chat.go_on(TOKENS_PER_CALL)


def _call_rows(options: Options) -> list[Row]:
    """Calls of one chat, call after call, then of chats that call at once. What the door answers by itself is told
    beside them, since a single server takes that too: HTTP, caller, access, log.
    """
    n_calls = options.scaled(TINY_CALLS, 5)
    one, at_once, own = "a call of one token", f"the same, {AT_ONCE} chats at once", "a question that it answers itself"
    spent: dict[str, list[float]] = {one: [], at_once: [], own: []}
    with Herd(HERD, CHAT_MODEL, workers=1, n_ctx=1024, slots=AT_ONCE, threads=1) as herd:
        chats, asks = [herd.chat(f"door-{n}") for n in range(AT_ONCE)], herd.http()
        for number in range(options.rounds + 1):
            begin(herd, chats, [words(20, (number, n)) for n in range(AT_ONCE)], AT_ONCE)
            herd.prepare(1)
            every = [partial(_calls, partial(chat.go_on, 1), n_calls) for chat in chats]
            sides: list[tuple[str, Callable[[], object], int]] = [
                (one, every[0], n_calls),
                (at_once, partial(together, every), n_calls * AT_ONCE),
                (own, partial(_calls, partial(asks.get, "/canisters/llama_cpp/whoami"), n_calls), n_calls),
            ]
            for what, work, n in sides:
                before = cpu_seconds(herd.pid)
                work()
                if number:  # the first round warms up
                    spent[what].append((cpu_seconds(herd.pid) - before) / n * 1000)
        asks.close()
    goals = {one: GOAL_CALL_MS, at_once: GOAL_CALL_MS, own: None}
    rows = [_goal(f"CPU time of the door for {what}", spent[what], goals[what], "ms") for what in spent]
    beside = [call - question for call, question in zip(spent[at_once], spent[own], strict=True)]
    return [*rows, _goal(f"Of that of {AT_ONCE} chats, beside HTTP", beside, GOAL_CALL_MS, "ms")]


def _calls(work: Callable[[], object], n: int) -> None:
    for _ in range(n):
        work()


def _token_rows(options: Options) -> list[Row]:
    """Streams side by side, as a worker that batches gives them. What they take with one token each, as calls, is left
    out.
    """
    n_tokens = options.scaled(STREAM_TOKENS, 20)
    tokens: list[float] = []
    with Herd(HERD, CHAT_MODEL, workers=1, n_ctx=1024, slots=STREAMS, threads=1) as herd:
        chats = [herd.chat(f"stream-{n}") for n in range(STREAMS)]
        for number in range(options.rounds + 1):
            begin(herd, chats, [words(20, (number, n)) for n in range(STREAMS)], STREAMS)
            short, long = _streamed(herd, chats, 2), _streamed(herd, chats, n_tokens)
            if number:
                tokens.append((long[0] - short[0]) / (long[1] - short[1]) * 1e6)
    what = f"CPU time of the door for a streamed token, {STREAMS} streams at once"
    return [_goal(what, tokens, GOAL_TOKEN_US, "µs")]


def _streamed(herd: Herd, chats: Sequence[OurChat], n_tokens: int) -> tuple[float, int]:
    """CPU seconds of the door for a streamed answer in each chat at once, and how many tokens came."""
    n_lines: list[int] = []

    def read(chat: OurChat) -> None:
        n_lines.append(stream(herd, chat.argument("", "-n", str(n_tokens), "--ignore-eos")))

    before = cpu_seconds(herd.pid)
    together([partial(read, chat) for chat in chats])
    return cpu_seconds(herd.pid) - before, sum(n_lines)


def _goal(what: str, samples: list[float], goal: float | None, unit: str) -> Row:
    figure = statistics.median(samples)
    return Row(what, figure, None, unit, figure, goal, at_least=False, figure_unit=unit, samples={"ours": samples})


PARTS: dict[str, Callable[[Options], list[Row]]] = {"rate": _rate_rows, "call": _call_rows, "token": _token_rows}


def cpu_seconds(pid: int) -> float:
    """Of all threads of a process since its start, to the nanosecond."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def stream(herd: Ours, argument: object) -> int:
    """One streamed run_update; the number of its lines with text."""
    parts = urlsplit(herd.url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=300)
    headers = {
        "Authorization": f"Bearer {herd.http_key}",
        "Content-Type": "application/json",
        "Accept": "application/x-ndjson",
    }
    connection.request("POST", "/canisters/llama_cpp/run_update", json.dumps(argument).encode(), headers)
    lines = connection.getresponse().read().splitlines()
    connection.close()
    if len(lines) < 2 or b"Ok" not in lines[-1]:
        raise BenchError(f"the stream ended with {lines[-1:]!r}")
    return len(lines) - 1


TITLE = "a herd of two workers beside two servers, and what its door costs"
BENCH = Bench("herd", TITLE, measure)


def only(part: str) -> Bench:
    """One part alone, which takes less than a minute on a machine that is quiet."""
    return Bench(f"herd_{part}", TITLE, PARTS[part])


if __name__ == "__main__":
    named = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in PARTS else None
    main(BENCH if named is None else only(named))
