"""Four clients in calls of ten tokens, beside the server of llama-cpp-python, without and with its cache."""

from __future__ import annotations

from contextlib import ExitStack

from tests.bench import peers
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, PythonServer, Server, variants, words
from tests.bench.suite import TOKENS_PER_CALL, Bench, Options, alternating, begin, context_for, main, tokens_per_second

CHATS = 4
PROMPT_TOKENS = 300
DEFAULT = "llama-cpp-python's server"
CACHED = "llama-cpp-python's server with its cache"
GOALS = {DEFAULT: 8.0, CACHED: 4.0}


def measure(options: Options) -> list[Row]:
    python = peers.python_server()
    n_prompt = options.scaled(PROMPT_TOKENS, 10)
    n_ctx = context_for(n_prompt + TOKENS_PER_CALL * (options.rounds + 1))
    prompts = [words(n_prompt, n) for n in range(CHATS)]
    rates: dict[str, list[float]] = {EXACT: [], DEFAULT: [], CACHED: []}
    with ExitStack() as stack:
        ours = variants(options.model, n_ctx=n_ctx, slots=CHATS, threads=options.threads)[0]
        servers: list[Server] = [ours]
        for name in GOALS:
            servers.append(
                PythonServer(
                    name, python, options.model, n_ctx=n_ctx, threads=options.threads, with_cache=name == CACHED
                )
            )
        chats = {}
        for server in servers:
            stack.enter_context(server)
            chats[server.label] = [server.chat(f"python-{n}") for n in range(CHATS)]
            begin(server, chats[server.label], prompts)
            tokens_per_second(server, chats[server.label], 1)
        for number in range(options.rounds):
            for server in alternating(servers, number):
                rates[server.label].append(tokens_per_second(server, chats[server.label], 1))
    return [
        ratio_row(
            f"{CHATS} clients, {TOKENS_PER_CALL} tokens per call, against {peer_name}",
            rates[EXACT],
            rates[peer_name],
            unit="tok/s",
            goal=goal,
            peer_name=peer_name,
        )
        for peer_name, goal in GOALS.items()
    ]


BENCH = Bench("python_server", "four clients, beside llama-cpp-python's server", measure)

if __name__ == "__main__":
    main(BENCH)
