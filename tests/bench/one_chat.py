"""One chat in calls of ten tokens: `python -m tests.bench.one_chat`.

llama-server is called the same way, with the whole text each time, and once uninterrupted from the same point on.
"""

from __future__ import annotations

from contextlib import ExitStack

from tests.bench import peers
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, FLASH, LlamaServer, Server, variants, words
from tests.bench.suite import N_CTX, TOKENS_PER_CALL, Bench, Options, alternating, begin, main, tokens_per_second

PROMPT_TOKENS = 100
CALLS = 8
CALLED = "llama-server, called the same way"
UNINTERRUPTED = "llama-server, uninterrupted"
GOALS = {CALLED: {FLASH: 0.98, EXACT: 0.95}, UNINTERRUPTED: {FLASH: 0.95, EXACT: 0.92}}


def measure(options: Options) -> list[Row]:
    binary = peers.llama_server(options.llama_server)
    n_prompt, n_calls = options.scaled(PROMPT_TOKENS, 10), options.scaled(CALLS, 2)
    rates: dict[str, list[float]] = {EXACT: [], FLASH: [], CALLED: [], UNINTERRUPTED: []}
    shape = {"n_ctx": N_CTX, "slots": 1, "threads": options.threads}
    with ExitStack() as stack:
        ours = [stack.enter_context(server) for server in variants(options.model, **shape)]
        peer = stack.enter_context(LlamaServer(CALLED, binary, options.model, **shape))
        servers: list[Server] = [*ours, peer]
        for number in range(options.rounds):
            for server in alternating(servers, number):
                chat = server.chat(f"one-{number}")
                begin(server, [chat], [words(n_prompt, number)])
                tokens_per_second(server, [chat], 1)
                rates[server.label].append(tokens_per_second(server, [chat], n_calls))
                if server is peer:
                    tokens = n_calls * TOKENS_PER_CALL
                    begin(server, [chat], [words(n_prompt, number)])
                    tokens_per_second(server, [chat], 1)
                    rates[UNINTERRUPTED].append(tokens_per_second(server, [chat], 1, tokens))
                chat.close()
    return [
        ratio_row(
            f"one chat, {TOKENS_PER_CALL} tokens per call ({label.removeprefix('ours, ')}), against {peer_name}",
            rates[label],
            rates[peer_name],
            unit="tok/s",
            goal=goal,
            peer_name=peer_name,
        )
        for peer_name, goals in GOALS.items()
        for label, goal in goals.items()
    ]


BENCH = Bench("one_chat", "one chat, ten tokens per call, beside llama-server", measure)

if __name__ == "__main__":
    main(BENCH)
