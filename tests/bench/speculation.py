"""Speculation by look-up, on and off in turns, and beside llama-server's: `python -m tests.bench.speculation`.

Random weights repeat nothing by themselves. A negative DRY multiplier, which both servers know, makes a token likely
that followed the last ones before: the answer copies its prompt, as a summary, an edit or JSON do in part. Without it
nothing repeats, and speculation can only cost.
"""

from __future__ import annotations

from contextlib import ExitStack

from tests.bench import peers
from tests.bench.results import Row, ratio_row
from tests.bench.servers import GREEDY, LlamaServer, Ours, Server, words
from tests.bench.suite import N_CTX, TOKENS_PER_CALL, Bench, Options, alternating, begin, main, tokens_per_second

PROMPT_TOKENS = 200
BEGUN_TOKENS = 3  # of the prompt's beginning, that stand at its end once more
ANSWER_TOKENS = 160
CALLS = 8
ON, OFF = "with speculation", "without speculation"
PEER = "llama-server, ngram-simple"
MULTIPLIER, BASE, ALLOWED = -50.0, 1.0001, 2
COPIES = {
    "samplers": ["dry", "temperature"],
    "dry_multiplier": MULTIPLIER,
    "dry_base": BASE,
    "dry_allowed_length": ALLOWED,
}
COPIES_FLAGS = (
    *("--samplers", "dry;temperature", "--temp", "0", "--dry-multiplier", str(MULTIPLIER)),
    *("--dry-base", str(BASE), "--dry-allowed-length", str(ALLOWED)),
)


def measure(options: Options) -> list[Row]:
    binary = peers.llama_server(options.llama_server)
    n_prompt, n_calls = options.scaled(PROMPT_TOKENS, 40), options.scaled(CALLS, 2)
    n_answer = min(options.scaled(ANSWER_TOKENS, 20), n_prompt - TOKENS_PER_CALL)
    shape = {"n_ctx": N_CTX, "slots": 1, "threads": options.threads}
    with ExitStack() as stack:
        on = Ours(ON, options.model, **shape, flags=("--spec-type", "ngram-simple"))
        off = Ours(OFF, options.model, **shape, flags=("--spec-type", "none"))
        peer = LlamaServer(PEER, binary, options.model, **shape, flags=("--spec-type", "ngram-simple"), settings=COPIES)
        for server in (on, off, peer):
            stack.enter_context(server)
        whole = _rates(options, [on, off, peer], n_prompt, 1, n_answer, copies=True)
        cut = _rates(options, [on, off], n_prompt, n_calls, TOKENS_PER_CALL, copies=True)
        free = _rates(options, [on, off], n_prompt, 1, n_answer, copies=False)
    return [
        _row("a copy of the prompt in one call", whole, OFF, 1.5),
        _row("a copy of the prompt in one call", whole, PEER, 1.0),
        _row(f"a copy of the prompt, {TOKENS_PER_CALL} tokens per call", cut, OFF, 1.2),
        _row("text that repeats nothing", free, OFF, 0.98),
    ]


def _row(what: str, rates: dict[str, list[float]], peer_name: str, goal: float) -> Row:
    return ratio_row(
        f"{what}, {ON}, against {peer_name}", rates[ON], rates[peer_name], unit="tok/s", goal=goal, peer_name=peer_name
    )


def _rates(
    options: Options, servers: list[Server], n_prompt: int, n_calls: int, n_tokens: int, *, copies: bool
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {server.label: [] for server in servers}
    for server in servers:
        if isinstance(server, Ours):
            server.answer_flags = COPIES_FLAGS if copies else GREEDY
    for number in range(options.rounds):
        text = words(n_prompt, number)
        prompt = text + "".join(f" {word}" for word in text.split()[:BEGUN_TOKENS])
        for server in alternating(servers, number):
            chat = server.chat(f"{n_calls}-{copies}-{number}")
            begin(server, [chat], [prompt])
            rates[server.label].append(tokens_per_second(server, [chat], n_calls, n_tokens))
            chat.close()
    return rates


BENCH = Bench("speculation", "speculation by look-up, on and off, beside llama-server's", measure)

if __name__ == "__main__":
    main(BENCH)
