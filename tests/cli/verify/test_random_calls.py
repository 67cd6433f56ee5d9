"""Whatever calls a canister gets, cut, sampled, rolled back, copied, across restarts: their receipts all verify."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from canister.cli.verify.run import Asked, verify
from canister.dispatch.receipts import find_receipt
from canister.ic.certificate import RootKey
from canister.ic.receipts import document
from canister.ic.receipts.document import Receipt
from tests.harness import CHAT_MODEL, CONTROLLER, GREEDY, Harness, canister_in

pytestmark = pytest.mark.anyio

TEXTS = ("Once upon a time", "Once upon a time there was a robot", "Who are you?", "Once", "The sky is blue because it")
CACHES = ("a", "b", "c")
SAMPLED: tuple[tuple[str, ...], ...] = (
    GREEDY,
    (),
    ("--temp", "1.3", "--top-k", "0", "--top-p", "0.9"),
    ("--temp", "0.7", "--repeat-penalty", "1.2", "--min-p", "0.1"),
    ("--mirostat", "2", "--temp", "0.9"),
    ("--samplers", "top_k;xtc;temperature", "--xtc-probability", "0.4", "--temp", "0.8"),
    ("--grammar", "root ::= [A-Za-z ,.]*"),
    ("--logit-bias", "30+2", "--dry-multiplier", "0.8"),
)


async def act(harness: Harness, draw: random.Random) -> None:
    """One or two calls of any kind."""
    cache = draw.choice(CACHES)
    kind = draw.random()
    if kind < 0.75:
        flags = [*draw.choice(SAMPLED), "-n", str(draw.randint(0, 9))]
        if draw.random() < 0.4:
            flags += ["--seed", str(draw.randint(0, 99))]
        prompt = draw.choice(TEXTS) if draw.random() < 0.5 or not exists(harness, cache) else ""
        await harness.run(prompt, *flags, cache=cache if draw.random() < 0.9 or not prompt else None)
    elif kind < 0.85 and exists(harness, cache):
        other = draw.choice(CACHES)
        if other != cache:
            await harness.call("copy_prompt_cache", {"from": cache, "to": other})
    elif kind < 0.9:
        await harness.call("remove_prompt_cache", {"args": ["--prompt-cache", cache]})
    elif kind < 0.95:
        await harness.limit(draw.choice((0, 3, 7)))
    else:
        await harness.fails("run_update", {"args": ["--nonsense"]})


def exists(harness: Harness, cache: str) -> bool:
    return harness.canister.stable.stat(f".canister_cache/{CONTROLLER}/sessions/{cache}") is not None


async def all_verify(folder: Path, n_calls: int, n_starts: int, seed: int) -> None:
    draw, data, key = random.Random(seed), folder / "data", RootKey.generate()
    data.mkdir()
    files: list[Path] = []
    for number in range(n_starts):
        async with canister_in(data, receipts="full") as harness:
            if number == 0:
                await harness.load(CHAT_MODEL, "-c", "256")
            await harness.canister.model.loaded()
            while harness.canister.receipts.size < n_calls * (number + 1) // n_starts:
                await act(harness, draw)
            if number == n_starts - 1:
                for index in range(harness.canister.receipts.size):
                    reply = await find_receipt(harness.canister, key, CONTROLLER, str(index), 0)
                    assert isinstance(reply.value, Receipt), reply
                    files.append(folder / f"{index}.cbor")
                    files[-1].write_bytes(document.to_cbor(reply.value))
    outcome = await verify(Asked(files, CHAT_MODEL, key.public_key_der))
    wrong = [line for verdict in outcome.verdicts if not verdict.is_ok for line in verdict.lines()]
    assert wrong == []
    assert outcome.notes == []
    tokens = [verdict.tokens for verdict in outcome.verdicts]
    decoded = [text for text in tokens if "all as the model draws them" in text]
    assert len(decoded) > n_calls // 4
    assert not [text for text in tokens if text.startswith("not decoded again") and "not at hand" in text]


async def test_that_some_random_calls_verify(tmp_path: Path) -> None:
    await all_verify(tmp_path, n_calls=60, n_starts=2, seed=1)


@pytest.mark.nightly
async def test_that_a_thousand_random_calls_verify(tmp_path: Path) -> None:
    await all_verify(tmp_path, n_calls=1000, n_starts=8, seed=2)
