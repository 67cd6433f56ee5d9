"""24 chats of 300 tokens, each one's first call after a restart of the server; llama-server's chats are gone then.

Both are up and have answered one call of another chat before the clock starts.
"""

from __future__ import annotations

from contextlib import ExitStack

from tests.bench import peers
from tests.bench.results import Row, ratio_row
from tests.bench.servers import EXACT, LlamaChat, LlamaServer, Server, variants, words
from tests.bench.suite import TOKENS_PER_CALL, Bench, Options, alternating, begin, context_for, main, tokens_per_second

SLOTS = 8
CHATS = 24
PROMPT_TOKENS = 300
PEER = "llama-server, restarted"


def measure(options: Options) -> list[Row]:
    binary = peers.llama_server(options.llama_server)
    n_prompt = options.scaled(PROMPT_TOKENS, 10)
    n_ctx = context_for(n_prompt + TOKENS_PER_CALL * options.rounds)
    prompts = [words(n_prompt, n) for n in range(CHATS)]
    rates: dict[str, list[float]] = {EXACT: [], PEER: []}
    texts = list(prompts)  # what the peer's clients hold
    shape = {"n_ctx": n_ctx, "slots": SLOTS, "threads": options.threads}
    with ExitStack() as stack:
        ours = stack.enter_context(variants(options.model, **shape)[0])
        begin(ours, [ours.chat(f"restart-{n}") for n in range(CHATS)], prompts)
        peer = stack.enter_context(LlamaServer(PEER, binary, options.model, **shape))
        servers: list[Server] = [ours, peer]
        for number in range(options.rounds):
            for server in alternating(servers, number):
                server.restart()
                warm = server.chat(f"warm-{number}")
                begin(server, [warm], [words(10, "warm")])
                tokens_per_second(server, [warm], 1)
                warm.close()
                chats = [server.chat(f"restart-{n}") for n in range(CHATS)]
                for chat, text in zip(chats, texts, strict=True):
                    if isinstance(chat, LlamaChat):
                        chat.text = text
                rates[server.label].append(tokens_per_second(server, chats, 1))
                texts = [getattr(chat, "text", text) for chat, text in zip(chats, texts, strict=True)]
                for chat in chats:
                    chat.close()
    return [
        ratio_row(
            f"the same {CHATS} chats right after a restart of both, {TOKENS_PER_CALL} tokens each",
            rates[EXACT],
            rates[PEER],
            unit="tok/s",
            goal=8,
            peer_name=PEER,
        )
    ]


BENCH = Bench("restart", "24 chats' first calls after a restart of both servers", measure)

if __name__ == "__main__":
    main(BENCH)
