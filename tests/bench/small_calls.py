"""Small calls: one token on the shipped model, median and 99th percentile, and 32 callers at once beside llama-server.

Each of ours is durable, and of a caller with a key of its own. llama-server has a slot for each chat and is called the
same way, with the whole text. Beside the times there is the time of processors that a call takes in the server, all
threads together.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from functools import partial

from canister.ic.identity import Identity
from canister.state.api_keys import open_keys
from tests.bench import peers
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, Chat, LlamaServer, Ours, Server, known, processor_seconds
from tests.bench.suite import Bench, Options, alternating, begin, main, together
from tests.harness import CHAT_MODEL

CALLERS = 32
CALLS = 8  # of each caller, in a round
LONE_CALLS = 150  # of a round
N_CTX = 512
GOAL_MEDIAN, GOAL_P99 = 3.0, 6.0  # ms
PROMPT = "<|im_start|>user\nPlease tell me story {} of the sea.<|im_end|>\n<|im_start|>assistant\n"
PEER = f"llama-server --parallel {CALLERS}"


def measure(options: Options) -> list[Row]:
    return [*_lone(options), *_many(options)]


def _lone(options: Options) -> list[Row]:
    n_calls = options.scaled(LONE_CALLS, 4)
    seconds: list[float] = []
    taken = 0.0
    with Ours(EXACT, CHAT_MODEL, n_ctx=1024, slots=2, threads=0, flags=known("--exact", "auto")) as server:
        for number in range(options.rounds):
            chat = server.chat(f"small-{number}")
            begin(server, [chat], [PROMPT.format(number)])
            server.prepare(1)
            chat.go_on(1)
            before = processor_seconds(server.pid)
            for _ in range(n_calls):
                begun = time.perf_counter()
                chat.go_on(1)
                seconds.append(time.perf_counter() - begun)
            taken += processor_seconds(server.pid) - before
            chat.close()
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))] * 1000
    median = statistics.median(seconds) * 1000
    note = f"{len(seconds)} calls, {taken * 1000 / len(seconds):.2f} ms of processors each"
    return [
        Row(f"call of one token on the shipped model, {which}", value, None, "ms", value, goal, False, "ms", note=note)
        for which, value, goal in (("median", median, GOAL_MEDIAN), ("99th percentile", p99, GOAL_P99))
    ]


def _many(options: Options) -> list[Row]:
    binary = peers.llama_server(options.llama_server)
    n_callers, n_calls = options.scaled(CALLERS, 4), options.scaled(CALLS, 2)
    rates: dict[str, list[float]] = {EXACT: [], PEER: []}
    taken: dict[str, float] = {EXACT: 0.0, PEER: 0.0}
    with ExitStack() as stack:
        exact = known("--exact", "auto")
        ours = stack.enter_context(Ours(EXACT, CHAT_MODEL, n_ctx=N_CTX, slots=n_callers, threads=1, flags=exact))
        peer = stack.enter_context(LlamaServer(PEER, binary, CHAT_MODEL, n_ctx=N_CTX, slots=n_callers, threads=1))
        keys = _keys(ours, n_callers)
        sides: list[Server] = [ours, peer]
        for number in range(options.rounds):
            for server in alternating(sides, number):
                chats: list[Chat]
                if server is ours:
                    chats = [ours.chat_of(key, f"many-{number}") for key in keys]
                else:
                    chats = [server.chat("", slot) for slot in range(n_callers)]
                begin(server, chats, [PROMPT.format(f"{number}-{n}") for n in range(n_callers)], 8)
                server.prepare(1)
                together([partial(chat.go_on, 1) for chat in chats])
                before = processor_seconds(server.pid)
                seconds = together([partial(_go_on, chat, n_calls) for chat in chats])
                taken[server.label] += processor_seconds(server.pid) - before
                rates[server.label].append(n_callers * n_calls / seconds)
                for chat in chats:
                    chat.close()
    each = {name: value * 1000 / (options.rounds * n_callers * n_calls) for name, value in taken.items()}
    return [
        ratio_row(
            f"{n_callers} callers, calls of one token on the shipped model, against {PEER}",
            rates[EXACT],
            rates[PEER],
            unit="calls/s",
            goal=None,
            peer_name=PEER,
            note=f"{each[EXACT]:.2f} ms of processors each, {each[PEER]:.2f} of llama-server's; threads 1",
        )
    ]


def _go_on(chat: Chat, n_calls: int) -> None:
    for _ in range(n_calls):
        chat.go_on(1)


def _keys(server: Ours, n: int) -> list[str]:
    """API keys of so many callers, who may chat."""
    server.call("set_access", {"level": 1})
    with open_keys(server.data_dir) as ring:
        return [ring.create(f"caller-{k}", Identity.generate().principal) for k in range(n)]


BENCH = Bench("small_calls", "calls of one token, alone and of 32 callers", measure)

if __name__ == "__main__":
    main(BENCH)
