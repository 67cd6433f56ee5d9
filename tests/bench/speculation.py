"""Speculation on and off in turns, and beside llama-server's: `python -m tests.bench.speculation`.

Random weights repeat nothing by themselves. A negative DRY multiplier, which both servers know, makes a token likely
that followed the last ones before: the answer copies its prompt, and where several tokens followed, it takes one of
them. So prompts make the texts: one that is copied whole, one that stands there in two versions, as an edit has them,
records of the same keys, sentences in several orders. Without the multiplier nothing repeats, and speculation can only
cost.

The models of the last rows are `deep` and the first layers of it alone, which guess most of its tokens.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from models.make_bench_model import SEED, SHAPES, cached, write
from tests.bench import peers
from tests.bench.results import Row, ratio_row
from tests.bench.servers import GREEDY, LlamaServer, Ours, Server, words
from tests.bench.suite import N_CTX, TOKENS_PER_CALL, Bench, Options, alternating, begin, main, tokens_per_second

PROMPT_TOKENS = 200
BEGUN_TOKENS = 3  # of the prompt's beginning, that stand at its end once more
ANSWER_TOKENS = 160
CALLS = 8
EDITED = 12  # words from one that was edited to the next
FIELDS, KEY, VALUE = 5, 6, 2  # of a record, and the tokens of what stands before a value, and of one
SENTENCE = 8  # words
ON, OFF = "with speculation", "without speculation"
WRONG = "with a draft model that is always wrong"
PEER, PEER_DRAFT = "llama-server, ngram-simple", "llama-server, draft-simple"
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
DRAFT_NAME = "models/draft.gguf"
DRAFT_TOKENS = 7  # that each server may guess at once

Text = Callable[[int, object], str]


# -- prompts of so many tokens


def copied(n_tokens: int, seed: object) -> str:
    """A text of which everything is new, and its beginning once more."""
    return _begun_again(words(n_tokens, seed).split())


def edited(n_tokens: int, seed: object) -> str:
    """A text, the same with other words here and there, and its beginning once more."""
    text = words(n_tokens // 2, seed).split()
    new = _more(len(text), seed)
    other = [new[n] if n % EDITED == EDITED - 1 else word for n, word in enumerate(text)]
    return _begun_again([*text, *other])


def records(n_tokens: int, seed: object) -> str:
    """Records of the same keys with values of their own, and the first key once more."""
    keys = [words(KEY, f"{seed} {n}").split() for n in range(FIELDS)]
    values, text = iter(_more(n_tokens, seed)), list[str]()
    while len(text) < n_tokens:
        for key in keys:
            text += [*key, *(next(values) for _ in range(VALUE))]
    return " " + " ".join([*text, *keys[0]])


def reordered(n_tokens: int, seed: object) -> str:
    """Sentences that stand there in several orders, and the beginning of one once more."""
    n_orders = 3
    text = words(n_tokens // n_orders, seed).split()
    sentences = [text[at : at + SENTENCE] for at in range(0, len(text) - SENTENCE + 1, SENTENCE)]
    rng, said = random.Random(str(seed)), list[str]()
    for _ in range(n_orders):
        said += [word for sentence in rng.sample(sentences, len(sentences)) for word in sentence]
    return _begun_again(said)


def _more(n_tokens: int, seed: object) -> list[str]:
    return words(n_tokens, f"{seed} more").split()


def _begun_again(text: Sequence[str]) -> str:
    return " " + " ".join([*text, *text[:BEGUN_TOKENS]])


# -- rows


def measure(options: Options) -> list[Row]:
    return [*by_look_up(options), *by_a_draft_model(options)]


def by_look_up(options: Options) -> list[Row]:
    binary = peers.llama_server(options.llama_server)
    n_calls = options.scaled(CALLS, 2)
    shape = {"n_ctx": N_CTX, "slots": 1, "threads": options.threads}
    rows = []
    with ExitStack() as stack:
        on = Ours(ON, options.model, **shape, flags=("--spec-type", "ngram-simple"))
        off = Ours(OFF, options.model, **shape, flags=("--spec-type", "none"))
        peer = LlamaServer(PEER, binary, options.model, **shape, flags=("--spec-type", "ngram-simple"), settings=COPIES)
        for server in (on, off, peer):
            stack.enter_context(server)
        whole = _rates(options, [on, off, peer], copied, 1)
        rows += [_row("a copy of the prompt in one call", whole, OFF, 1.5)]
        rows += [_row("a copy of the prompt in one call", whole, PEER, 1.0)]
        cut = _rates(options, [on, off], copied, n_calls)
        rows += [_row(f"a copy of the prompt, {TOKENS_PER_CALL} tokens per call", cut, OFF, 1.2)]
        for what, text in (("an edit", edited), ("records, as in JSON", records), ("a summary", reordered)):
            # Not beside the peer: where several tokens followed, it takes other ones, and its text is another.
            rows += [_row(what, _rates(options, [on, off], text, 1), OFF, 1.5)]
        again = _rates(options, [on, off], copied, 1, copies=False, is_asked_again=True)
        rows += [_row("an answer that another chat of the caller has", again, OFF, 1.5)]
        free = _rates(options, [on, off], copied, 1, copies=False)
        rows += [_row("text that repeats nothing", free, OFF, 0.98)]
    return rows


def by_a_draft_model(options: Options) -> list[Row]:
    """A draft model that guesses most tokens and one that guesses none, beside none and beside llama-server's."""
    binary = peers.llama_server(options.llama_server)
    model, draft = cached("deep"), cached("deep-draft")
    shape = {"n_ctx": N_CTX, "slots": 1, "threads": options.threads}
    peer_flags = ("-md", str(draft), "--spec-type", "draft-simple", "--spec-draft-n-max", str(DRAFT_TOKENS))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="speculation-")))
        wrong = write(folder / "wrong.gguf", SHAPES["deep-draft"], seed=SEED + 1)
        on = _with_draft(stack, ON, model, draft, shape)
        bad = _with_draft(stack, WRONG, model, wrong, shape)
        off = Ours(OFF, model, **shape, flags=("--spec-type", "none"))
        peer = LlamaServer(PEER_DRAFT, binary, model, **shape, flags=peer_flags)
        for server in (off, peer):
            stack.enter_context(server)
        rates = _rates(options, [on, bad, off, peer], copied, 1, copies=False)
    return [
        _row("new text, a draft model", rates, OFF, 1.0),
        _row("new text, a draft model", rates, PEER_DRAFT, 1.0),
        _row("new text, a draft model that is always wrong", rates | {ON: rates[WRONG]}, OFF, 0.98),
    ]


def _with_draft(stack: ExitStack, label: str, model: Path, draft: Path, shape: dict[str, int]) -> Ours:
    """A server that has loaded the model with its draft model."""
    server = Ours(label, model, **shape, flags=("--spec-type", "draft-simple"))
    stack.enter_context(server)
    http = server.http()
    http.put_file(f"/canisters/llama_cpp/files/{DRAFT_NAME}", draft)
    http.close()
    flags = ["--model-draft", DRAFT_NAME, "--spec-draft-n-max", str(DRAFT_TOKENS)]
    server.call("load_model", {"args": ["--model", "models/model.gguf", "--ctx-size", str(N_CTX), *flags]})
    return server


def _row(what: str, rates: dict[str, list[float]], peer_name: str, goal: float) -> Row:
    return ratio_row(
        f"{what}, {ON}, against {peer_name}", rates[ON], rates[peer_name], unit="tok/s", goal=goal, peer_name=peer_name
    )


def _rates(
    options: Options,
    servers: list[Server],
    text: Text,
    n_calls: int,
    *,
    copies: bool = True,
    is_asked_again: bool = False,
) -> dict[str, list[float]]:
    """Tokens per second of each server's answers, in one call or several. is_asked_again: of the second chat with the
    same prompt.
    """
    n_prompt = options.scaled(PROMPT_TOKENS, 40)
    n_tokens = min(options.scaled(ANSWER_TOKENS, 20), n_prompt - TOKENS_PER_CALL) if n_calls == 1 else TOKENS_PER_CALL
    rates: dict[str, list[float]] = {server.label: [] for server in servers}
    for server in servers:
        if isinstance(server, Ours):
            server.answer_flags = COPIES_FLAGS if copies else GREEDY
    for number in range(options.rounds):
        prompt = text(n_prompt, f"{number}{is_asked_again}{copies}")
        for server in alternating(servers, number):
            for time in range(1 + is_asked_again):
                chat = server.chat(f"{text.__name__}-{n_calls}-{copies}-{number}-{time}")
                begin(server, [chat], [prompt])
                rate = tokens_per_second(server, [chat], n_calls, n_tokens)
                chat.close()
            rates[server.label].append(rate)
    return rates


BENCH = Bench("speculation", "speculation on and off, by look-up and by a draft model, beside llama-server's", measure)

if __name__ == "__main__":
    main(BENCH)
