"""Eight chats at the same time in calls of ten tokens, beside llama-server with eight slots."""

from __future__ import annotations

from contextlib import ExitStack

from tests.bench import peers
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, FLASH, LlamaServer, Server, variants, words
from tests.bench.suite import N_CTX, TOKENS_PER_CALL, Bench, Options, alternating, begin, main, tokens_per_second

CHATS = 8
PROMPT_TOKENS = 50
CALLS = 4
PEER = f"llama-server --parallel {CHATS}"
GOALS = {FLASH: 1.00, EXACT: 0.94}


def measure(options: Options) -> list[Row]:
    binary = peers.llama_server(options.llama_server)
    n_prompt, n_calls = options.scaled(PROMPT_TOKENS, 10), options.scaled(CALLS, 2)
    rates: dict[str, list[float]] = {EXACT: [], FLASH: [], PEER: []}
    shape = {"n_ctx": N_CTX, "slots": CHATS, "threads": options.threads}
    with ExitStack() as stack:
        servers: list[Server] = [*variants(options.model, **shape), LlamaServer(PEER, binary, options.model, **shape)]
        for server in servers:
            stack.enter_context(server)
        for number in range(options.rounds):
            prompts = [words(n_prompt, (number, n)) for n in range(CHATS)]
            for server in alternating(servers, number):
                chats = [server.chat(f"eight-{number}-{n}", slot=n) for n in range(CHATS)]
                begin(server, chats, prompts)
                tokens_per_second(server, chats, 1)
                rates[server.label].append(tokens_per_second(server, chats, n_calls))
                for chat in chats:
                    chat.close()
    return [
        ratio_row(
            f"{CHATS} chats, {TOKENS_PER_CALL} tokens per call ({label.removeprefix('ours, ')}), against {PEER}",
            rates[label],
            rates[PEER],
            unit="tok/s",
            goal=goal,
            peer_name=PEER,
        )
        for label, goal in GOALS.items()
    ]


BENCH = Bench("eight_chats", "eight chats at once, ten tokens per call, beside llama-server", measure)

if __name__ == "__main__":
    main(BENCH)
