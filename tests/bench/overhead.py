"""What a call costs beside its decoding: with 4000 tokens of context against 100, and in milliseconds for one token.

The first is measured on a model with the KV rows of Qwen2.5-0.5B and hardly any weights (shape kv05), one thread: wall
time of a call of ten tokens through HTTP, minus the `llama_decode` time of ten tokens at the same positions, which a
bare loop around llama.cpp takes in turn with the calls, in this process, while the server rests. On a real model the
difference of two such times would be smaller than their noise. The second is the shipped model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from canister.engine.kv.in_place import open_kv_memory
from canister.engine.kv.rows import parse
from canister.engine.llama import Context, Model
from canister.engine.llama_build import start_backend
from canister.engine.llama_types import ContextParams
from models.make_bench_model import cached
from tests.bench.results import Row
from tests.bench.servers import EXACT, BenchError, Ours, known, words
from tests.bench.suite import TOKENS_PER_CALL, Bench, Options, alternating, begin, main
from tests.harness import CHAT_MODEL

N_CTX = 4608
N_ROWS = 256
SHORT, LONG = 100, 4000
CALLS = 10  # of a round and a context
TINY_CALLS = 40  # of a round
GOAL_MILLISECONDS = 4.0


def measure(options: Options) -> list[Row]:
    return [_context_row(options), _one_token_row(options)]


def _context_row(options: Options) -> Row:
    model = cached("kv05")
    n_calls = options.scaled(CALLS, 2)
    calls: dict[int, list[float]] = {SHORT: [], LONG: []}
    alone: dict[int, list[float]] = {SHORT: [], LONG: []}
    exact = known("--exact", "auto")
    with Ours(EXACT, model, n_ctx=N_CTX, slots=2, threads=1, flags=exact) as server, _decoder(model) as decoder:
        for number in range(options.rounds):
            for n_context in alternating((SHORT, LONG), number):
                chat = server.chat(f"overhead-{number}-{n_context}")
                begin(server, [chat], [words(n_context, number)])
                server.prepare(TOKENS_PER_CALL)
                chat.go_on(TOKENS_PER_CALL)
                # One after the other, not in turn: each would find the processor's caches full of the other's KV rows.
                calls[n_context] += [_seconds(partial(chat.go_on, TOKENS_PER_CALL)) for _ in range(n_calls)]
                decoder.fill(n_context + TOKENS_PER_CALL)
                alone[n_context] += [_seconds(partial(decoder.decode, TOKENS_PER_CALL)) for _ in range(n_calls)]
                chat.close()
    overheads = {n: statistics.median(calls[n]) - statistics.median(alone[n]) for n in (SHORT, LONG)}
    if min(overheads.values()) <= 0:
        raise BenchError(f"the machine is too busy: calls took no longer than their decoding alone ({overheads})")
    return Row(
        f"overhead of a call of {TOKENS_PER_CALL} tokens, context {LONG} against {SHORT}",
        overheads[LONG] * 1000,
        overheads[SHORT] * 1000,
        "ms",
        overheads[LONG] / overheads[SHORT],
        1.2,
        at_least=False,
        peer_name=f"context {SHORT}",
        note="calls of a model with the KV rows of Qwen2.5-0.5B and few weights, minus llama_decode alone",
        samples={f"{name} at {n}": times[n] for name, times in (("call", calls), ("decode", alone)) for n in times},
    )


def _one_token_row(options: Options) -> Row:
    n_calls = options.scaled(TINY_CALLS, 4)
    seconds: list[float] = []
    exact = known("--exact", "auto")
    with Ours(EXACT, CHAT_MODEL, n_ctx=1024, slots=2, threads=0, flags=exact) as server:
        for number in range(options.rounds):
            chat = server.chat(f"tiny-{number}")
            begin(server, [chat], ["<|im_start|>user\nPlease tell me a story.<|im_end|>\n<|im_start|>assistant\n"])
            server.prepare(1)
            chat.go_on(1)
            seconds += [_seconds(partial(chat.go_on, 1)) for _ in range(n_calls)]
            chat.close()
    milliseconds = statistics.median(seconds) * 1000
    return Row(
        "call of one token on the shipped model through HTTP, synced, median",
        milliseconds,
        None,
        "ms",
        milliseconds,
        GOAL_MILLISECONDS,
        at_least=False,
        figure_unit="ms",
        samples={"ours": seconds},
    )


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


class _Decoder:
    """A bare loop around `llama_decode`: one thread, exact, KV memory as the engine has it; tokens of no meaning."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._n = 0

    def fill(self, n_tokens: int) -> None:
        """Forget all and take so many tokens in."""
        self._context.clear(0)
        self._n = 0
        while self._n < n_tokens:
            self._decode(min(self._context.params.n_rows, n_tokens - self._n), [])

    def decode(self, n_tokens: int) -> None:
        """So many tokens one by one."""
        for _ in range(n_tokens):
            self._decode(1, [0])

    def _decode(self, n_tokens: int, outputs: list[int]) -> None:
        self._context.decode([0] * n_tokens, range(self._n, self._n + n_tokens), [300] * n_tokens, outputs)
        self._n += n_tokens


@contextmanager
def _decoder(model_file: Path) -> Iterator[_Decoder]:
    start_backend()
    model = Model(model_file, model_file.name)
    context = Context(model, ContextParams(n_streams=1, n_cells=N_CTX, n_rows=N_ROWS, n_threads=1), model_file.name)
    try:
        context.decode([0, 0], [0, 1], [300, 300], [])
        layout = parse(context.state(0))[0]
        context.clear(0)
        open_kv_memory(context, layout)
        yield _Decoder(context)
    finally:
        context.close()


BENCH = Bench("overhead", "what a call costs beside its decoding", measure)

if __name__ == "__main__":
    main(BENCH)
