"""How fast a long prompt goes in, beside llama-server: alone, and beside eight chats that generate meanwhile.

A prompt of 2000 tokens, streamed by the same client on both sides; its first token tells when it was in. Beside chats
the longest of their pauses between two tokens is measured too: ours keeps it within `--max-pause-ms`, llama-server lets
them stand still for a batch. `--row alone` or `--row beside` takes one part.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from tests.bench import peers
from tests.bench.openai_door import PEER, TIMEOUT_SECONDS, stream
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, FLASH, BenchError, LlamaServer, Ours, Server, ends_by_itself, variants, words
from tests.bench.suite import Bench, Options, add_options, alternating, end_by_signal, read_options, run

PROMPT_TOKENS = 2000
CHATS = 8
CHAT_TOKENS = 30  # of the prompt of a chat
MOST_TOKENS = 4000  # of a chat's answer, more than it gets to
ROWS = ("alone", "beside")
GOALS = {FLASH: 1.0, EXACT: 1.0}
PAUSE_MS = 200  # --max-pause-ms, as it is by default
LATE_MS = 50  # until a token is at its client


def measure(options: Options, wanted: Sequence[str] = ROWS) -> list[Row]:
    binary = peers.llama_server(options.llama_server)
    n_prompt, n_chats = options.scaled(PROMPT_TOKENS, 64), options.scaled(CHATS, 2)
    n_ctx = n_prompt + 256 if wanted == ("alone",) else max(n_prompt, MOST_TOKENS) + 256
    shape: Any = {"n_ctx": n_ctx, "slots": 1 if wanted == ("alone",) else n_chats + 1, "threads": options.threads}
    seconds: dict[str, dict[str, list[float]]] = {row: {} for row in wanted}
    pauses: dict[str, list[float]] = {}
    with ExitStack() as stack:
        servers: list[Server] = [*variants(options.model, **shape), LlamaServer(PEER, binary, options.model, **shape)]
        for server in servers:
            stack.enter_context(server)
            _prefill(server, words(CHAT_TOKENS, "warm"), options)
        for number in range(options.rounds):
            for server in alternating(servers, number):
                if "alone" in wanted:
                    taken = _prefill(server, words(n_prompt, ("alone", number)), options)
                    seconds["alone"].setdefault(server.label, []).append(taken)
                if "beside" in wanted:
                    taken, pause = _beside(server, n_prompt, n_chats, number, options)
                    seconds["beside"].setdefault(server.label, []).append(taken)
                    pauses.setdefault(server.label, []).append(pause)
    told = {"alone": "alone", "beside": f"beside {n_chats} chats"}
    rows = [
        ratio_row(
            f"{n_prompt} tokens of prompt, {told[row]} ({label.removeprefix('ours, ')}), against {PEER}",
            [n_prompt / each for each in seconds[row][label]],
            [n_prompt / each for each in seconds[row][PEER]],
            unit="tok/s",
            goal=goal,
            peer_name=PEER,
        )
        for row in wanted
        for label, goal in GOALS.items()
    ]
    return rows + [_pause_row(label, pauses, n_chats) for label in GOALS if label in pauses]


def _pause_row(label: str, pauses: dict[str, list[float]], n_chats: int) -> Row:
    longest = max(pauses[label]) * 1000
    return Row(
        f"longest pause of {n_chats} chats while a prompt goes in ({label.removeprefix('ours, ')})",
        longest,
        max(pauses[PEER]) * 1000,
        "ms",
        longest,
        PAUSE_MS + LATE_MS,
        at_least=False,
        figure_unit="ms",
        peer_name=PEER,
        samples={name: each for name, each in pauses.items() if name in (label, PEER)},
    )


def _body(prompt: str, n_tokens: int, options: Options) -> dict[str, Any]:
    body = {"prompt": prompt, "max_tokens": n_tokens, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    return body | ({"ignore_eos": True} if ends_by_itself(options.model) else {})


def _prefill(server: Server, prompt: str, options: Options) -> float:
    """Seconds until the first token of an answer."""
    return stream(server.url, _key(server), _body(prompt, 1, options)).first


def _key(server: Server) -> str | None:
    return server.http_key if isinstance(server, Ours) else None


def _beside(server: Server, n_prompt: int, n_chats: int, number: int, options: Options) -> tuple[float, float]:
    """Seconds until a prompt is in while chats generate, and of the longest pause of these meanwhile."""
    is_over = threading.Event()
    begun = [threading.Event() for _ in range(n_chats)]
    times: list[list[float]] = [[] for _ in range(n_chats)]
    bodies = [_body(words(CHAT_TOKENS, (number, n)), MOST_TOKENS, options) for n in range(n_chats)]
    with ThreadPoolExecutor(n_chats) as pool:
        chats = [
            pool.submit(_follow, server, body, seen, event, is_over)
            for body, seen, event in zip(bodies, times, begun, strict=True)
        ]
        try:
            for event in begun:
                if not event.wait(TIMEOUT_SECONDS):
                    raise BenchError(f"{server.label}: a chat does not begin")
            start = time.perf_counter()
            seconds = _prefill(server, words(n_prompt, ("beside", number)), options)
            end = time.perf_counter()
        finally:
            is_over.set()
        for chat in chats:
            chat.result()
    return seconds, max(_longest(seen, start, end) for seen in times)


def _follow(
    server: Server, body: dict[str, Any], seen: list[float], begun: threading.Event, is_over: threading.Event
) -> None:
    """Read an answer until it is over, or nobody wants more of it; when its tokens came."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    key = _key(server)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    for line in response:
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"]:
            seen.append(time.perf_counter())
            begun.set()
        if is_over.is_set():
            break
    connection.close()
    if not is_over.is_set():
        raise BenchError(f"{server.label}: a chat ended before the prompt was in")


def _longest(seen: Sequence[float], start: float, end: float) -> float:
    """The longest time between two tokens, as far as it lies between start and end."""
    inside = [start, *(each for each in seen if start <= each <= end), end]
    return max(later - earlier for earlier, later in itertools.pairwise(inside))


BENCH = Bench("prefill", "a long prompt, alone and beside eight chats, beside llama-server", measure)


def main() -> None:
    """The command line: both parts, or one."""
    parser = argparse.ArgumentParser(description=BENCH.title)
    add_options(parser)
    parser.add_argument("--row", choices=ROWS, help="one part; default: both")
    given = parser.parse_args()
    options = read_options(given)
    end_by_signal()
    wanted = ROWS if given.row is None else (given.row,)
    name = BENCH.name if given.row is None else f"{BENCH.name}_{given.row}"
    sys.exit(0 if run(Bench(name, BENCH.title, partial(measure, wanted=wanted)), options) else 1)


if __name__ == "__main__":
    main()
