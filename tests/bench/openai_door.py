"""Streams of OpenAI's completions beside llama-server, the same client for both: tokens per second, first tokens.

Ours has its default instruction limit, so that an answer is a chain of calls and each of them is durable. Prompts are
new every time; answers are greedy and of a fixed length. A bound answer obeys a JSON schema. `--row NAME` takes one row
of the table alone, `--flash` also takes our server with flash attention instead of exactness.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from canister.defaults import UPDATE_LIMIT
from tests.bench import peers
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, FLASH, BenchError, LlamaServer, Ours, Server, ends_by_itself, words
from tests.bench.suite import Bench, Options, add_options, alternating, end_by_signal, read_options, run, together

PEER = "llama-server"
LONG_TOKENS = 1000
SHORT_TOKENS = 30
ANSWER_TOKENS = 64
TIMEOUT_SECONDS = 900
SCHEMA = {
    "type": "object",
    "properties": {
        **{name: {"type": "string", "maxLength": 40} for name in ("name", "street", "city")},
        **{name: {"type": "integer", "minimum": 0, "maximum": 99999} for name in ("age", "zip")},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 3, "maxItems": 6},
    },
    "required": ["name", "street", "city", "age", "zip", "tags"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams at a time, each with a prompt of its own. name: of its row. bound: their answers obey SCHEMA."""

    name: str
    what: str
    n_streams: int
    n_prompt: int
    n_answer: int = ANSWER_TOKENS
    bound: bool = False


LOADS = (
    Load("1-short", "one stream, short prompt", 1, SHORT_TOKENS),
    Load("1-long", "one stream, prompt of 1000 tokens", 1, LONG_TOKENS),
    Load("8-short", "8 streams, short prompts", 8, SHORT_TOKENS),
    Load("8-long", "8 streams, prompts of 1000 tokens", 8, LONG_TOKENS),
    Load("32-short", "32 streams, short prompts", 32, SHORT_TOKENS),
    Load("1-bound", "one stream, bound to a JSON schema", 1, SHORT_TOKENS, bound=True),
    Load("8-bound", "8 streams, bound to a JSON schema", 8, SHORT_TOKENS, bound=True),
)


@dataclass(frozen=True, slots=True)
class Streamed:
    """Of one answer. first, last: when its first and its last token came, in seconds since it was asked for."""

    first: float
    last: float
    n_tokens: int


def stream(url: str, key: str | None, body: dict[str, Any]) -> Streamed:
    """Ask for one answer and read it to its end."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    asked = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != 200:
        raise BenchError(f"{url}: {response.status} {response.read()[:300]!r}")
    first = last = 0.0
    n_tokens = 0
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event["choices"] and event["choices"][0]["text"]:
            last = time.perf_counter() - asked
            first = first or last
        n_tokens = (event.get("usage") or {}).get("completion_tokens", n_tokens)
    connection.close()
    if not first or not n_tokens:
        raise BenchError(f"{url}: an answer without text, or without its number of tokens")
    return Streamed(first, last, n_tokens)


def _run(server: Server, load: Load, prompts: Sequence[str], *, may_end: bool = False) -> tuple[float, float]:
    """Tokens per second of all streams together, and the mean time to their first tokens. may_end: the model may."""
    key = server.http_key if isinstance(server, Ours) else None
    got: list[Streamed] = []

    def one(prompt: str) -> None:
        body: dict[str, Any] = {
            "prompt": prompt,
            "max_tokens": load.n_answer,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if load.bound:
            body["json_schema"] = SCHEMA
        elif may_end:
            body["ignore_eos"] = True
        got.append(stream(server.url, key, body))

    seconds = together([partial(one, prompt) for prompt in prompts])
    if not load.bound and any(each.n_tokens != load.n_answer for each in got):
        raise BenchError(f"{server.label}: {[each.n_tokens for each in got]} tokens, not {load.n_answer} each")
    return sum(each.n_tokens for each in got) / seconds, sum(each.first for each in got) / len(got)


def measure(options: Options, loads: Sequence[Load] = LOADS, *, with_flash: bool = False) -> list[Row]:
    binary = peers.llama_server(options.llama_server)
    may_end = ends_by_itself(options.model)
    rows: list[Row] = []
    for load in loads:
        n_prompt = options.scaled(load.n_prompt, 10)
        n_ctx = -(-(n_prompt + load.n_answer + 64) // 256) * 256
        shape = {"n_ctx": n_ctx, "slots": load.n_streams, "threads": options.threads}
        limit = ("--instruction-limit", str(UPDATE_LIMIT))
        ours = [Ours(EXACT, options.model, **shape, flags=limit)]
        if with_flash:
            ours.append(Ours(FLASH, options.model, **shape, flags=(*limit, "--exact", "off")))
        servers: list[Server] = [*ours, LlamaServer(PEER, binary, options.model, **shape)]
        rates: dict[str, list[float]] = {server.label: [] for server in servers}
        firsts: dict[str, list[float]] = {server.label: [] for server in servers}
        with ExitStack() as stack:
            for server in servers:
                stack.enter_context(server)
                _run(server, load, [words(n_prompt, ("warm", n)) for n in range(load.n_streams)][:1], may_end=may_end)
            for number in range(options.rounds):
                prompts = [words(n_prompt, (load.what, number, n)) for n in range(load.n_streams)]
                for server in alternating(servers, number):
                    rate, first = _run(server, load, prompts, may_end=may_end)
                    rates[server.label].append(rate)
                    firsts[server.label].append(first)
        for server in ours:
            what = f"{load.what} ({server.label.removeprefix('ours, ')})"
            rows += [
                ratio_row(what, rates[server.label], rates[PEER], unit="tok/s", goal=1.0, peer_name=PEER),
                ratio_row(
                    f"{what}: time to the first token",
                    firsts[server.label],
                    firsts[PEER],
                    unit="ms",
                    factor=1000,
                    goal=1.05,
                    at_least=False,
                    peer_name=PEER,
                ),
            ]
    return rows


BENCH = Bench("openai_door", "streams of OpenAI's completions, each call durable, beside llama-server", measure)


def main() -> None:
    """The command line: all rows, or those that are named."""
    parser = argparse.ArgumentParser(description=BENCH.title)
    add_options(parser)
    parser.add_argument("--row", action="append", choices=[load.name for load in LOADS], help="one row; default: all")
    parser.add_argument("--flash", action="store_true", help="also our server with --exact off")
    given = parser.parse_args()
    options = read_options(given)
    end_by_signal()
    wanted = [load for load in LOADS if given.row is None or load.name in given.row]
    name = "_".join([BENCH.name, *(load.name for load in wanted)]) if given.row else BENCH.name
    taken = partial(measure, loads=wanted, with_flash=given.flash)
    sys.exit(0 if run(Bench(name, BENCH.title, taken), options) else 1)


if __name__ == "__main__":
    main()
