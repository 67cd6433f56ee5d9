"""A replay: with one row a decode it draws what was drawn, and a changed token is the only one that differs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from canister.engine import replay as replays
from canister.engine.llama import Context
from canister.engine.llama_types import ContextParams
from canister.engine.load.loaded import LoadParams
from canister.engine.load.loader import load_model
from canister.engine.replay import Drawn, Replay
from canister.engine.told_calls import told_call
from canister.handlers.receipts import replay_of
from canister.ic.receipts import document
from canister.ic.receipts import record as records
from tests.harness import CHAT_MODEL, Harness, canister_in

pytestmark = pytest.mark.anyio

N_CTX = 256


@pytest.fixture(scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path_factory.mktemp("replay")) as found:
        await found.load(CHAT_MODEL, "-c", str(N_CTX))
        yield found


async def drawn(harness: Harness, *flags: str) -> Drawn:
    """A call of 40 tokens."""
    await harness.run("Once upon a time", "-n", "40", "--ignore-eos", *flags)
    chain = harness.canister.receipts
    found = chain.find(chain.size - 1)
    assert found is not None
    record = records.decode(found.record)
    call = told_call(record, replay_of(harness.canister, record).words, document.read_terms(found.terms))
    parts = call.sampling, call.seed, call.n_draws, call.n_continued
    return Drawn(call.history, call.drawn, call.redrawn.tolist(), *parts)


async def test_that_one_changed_token_is_the_only_difference(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "ROWS", 1)
    model = load_model(LoadParams(path=CHAT_MODEL, n_ctx=N_CTX))
    for flags in (("--temp", "0"), ("--temp", "1.2", "--seed", "4")):
        call = await drawn(harness, *flags)
        n = len(call.tokens)
        replay = Replay(model, ContextParams(1, N_CTX, 1, 1), N_CTX)
        try:
            (honest,) = replay.judge([call])
            assert (honest.n_equal, honest.n_near, honest.differences) == (n, 0, ())
            last = call.tokens.copy()
            last[-1] = 7 if last[-1] != 7 else 8
            (forged,) = replay.judge([replace(call, tokens=last)])
            (difference,) = forged.differences
            assert (forged.n_equal, difference.at, difference.said) == (n - 1, n - 1, last[-1])
            assert difference.drawn == call.tokens[-1]
            assert difference.margin > 0 or flags != ("--temp", "0")
        finally:
            replay.close()


async def test_that_rows_are_judged_wherever_a_decode_ends(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a decode are looked at together, from the first row that is asked for; calls share them."""
    model = load_model(LoadParams(path=CHAT_MODEL, n_ctx=N_CTX))
    shape = ContextParams(1, N_CTX, 1, 1)
    call = await drawn(harness, "--temp", "0")
    half = replace(call, tokens=call.tokens[:20])
    monkeypatch.setattr(replays, "ROWS", 1)
    alone = Replay(model, shape, N_CTX)
    (wanted,) = alone.judge([call])
    alone.close()
    for n_rows in (7, 64):
        monkeypatch.setattr(replays, "ROWS", n_rows)
        replay = Replay(model, shape, N_CTX)
        try:
            whole, part = replay.judge([call, half])
            assert (whole.n_equal + whole.n_near, part.n_equal + part.n_near) == (len(call.tokens), 20)
            assert whole.smallest_margin is not None
            assert part.smallest_margin is not None
            assert wanted.smallest_margin is not None
            assert whole.smallest_margin <= part.smallest_margin
            assert abs(whole.smallest_margin - wanted.smallest_margin) < 0.2
        finally:
            replay.close()
    context = Context(model, replace(shape, n_rows=8, n_outputs=8), "rows")
    context.decode([0] * 6, range(6), call.tokens[:6], [1, 3, 4])
    assert np.array_equal(context.all_logits(), np.stack([context.logits(row) for row in (1, 3, 4)]))
    context.close()
