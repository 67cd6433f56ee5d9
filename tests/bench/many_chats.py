"""More chats than slots: 24 chats of 300 tokens on 8 slots, beside llama-server with its RAM cache."""

from __future__ import annotations

from contextlib import ExitStack

from tests.bench import peers
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, FLASH, LlamaServer, Server, variants, words
from tests.bench.suite import TOKENS_PER_CALL, Bench, Options, alternating, begin, context_for, main, tokens_per_second

SLOTS = 8
CHATS = 24
PROMPT_TOKENS = 300
CALLS = 2
PEER = "llama-server with its RAM cache"
GOALS = {EXACT: 0.95, FLASH: 0.95}


def measure(options: Options) -> list[Row]:
    binary = peers.llama_server(options.llama_server)
    n_prompt = options.scaled(PROMPT_TOKENS, 10)
    n_ctx = context_for(n_prompt + TOKENS_PER_CALL * (CALLS * options.rounds + 1))
    prompts = [words(n_prompt, n) for n in range(CHATS)]
    rates: dict[str, list[float]] = {EXACT: [], FLASH: [], PEER: []}
    shape = {"n_ctx": n_ctx, "slots": SLOTS, "threads": options.threads}
    with ExitStack() as stack:
        servers: list[Server] = [*variants(options.model, **shape), LlamaServer(PEER, binary, options.model, **shape)]
        chats = {}
        for server in servers:
            stack.enter_context(server)
            chats[server.label] = [server.chat(f"many-{n}") for n in range(CHATS)]
            begin(server, chats[server.label], prompts)
            tokens_per_second(server, chats[server.label], 1)
        for number in range(options.rounds):
            for server in alternating(servers, number):
                rates[server.label].append(tokens_per_second(server, chats[server.label], CALLS))
    return [
        ratio_row(
            f"{CHATS} chats on {SLOTS} slots ({label.removeprefix('ours, ')}), against {PEER}",
            rates[label],
            rates[PEER],
            unit="tok/s",
            goal=goal,
            peer_name=PEER,
        )
        for label, goal in GOALS.items()
    ]


BENCH = Bench("many_chats", "24 chats of 300 tokens on 8 slots, beside llama-server with its RAM cache", measure)

if __name__ == "__main__":
    main(BENCH)
