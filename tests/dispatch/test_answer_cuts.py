"""Any cut of an answer into calls, by tokens, instructions or time, and any kill between, gives the same answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from random import Random

import pytest

from canister.api.tokens import Token
from canister.dispatch import Answered, Ingested, Piece, Scored, Wanted, answers
from canister.flags.params import SamplingParams
from tests.harness import CHAT_MODEL, CONTROLLER, Harness, canister_in
from tests.server.served import CHAT

pytestmark = pytest.mark.anyio

QUESTION = " ".join(f"Tell me of llama number {n}." for n in range(12))
MIXED = SamplingParams(temperature=1.5, repeat_penalty=1.1, xtc_probability=0.5, ignore_eos=True)
BOUND = SamplingParams(temperature=1.5, grammar='root ::= "<" [a-z ]+ ("," [a-z ]+){20,30} ">"')
WANTED = {
    "free": Wanted(CHAT.format(QUESTION), MIXED, seed=11, max_tokens=60, n_logprobs=2),
    "scored": Wanted(CHAT.format(QUESTION), MIXED, seed=11, max_tokens=10, n_logprobs=1, n_prompt_logprobs=1),
    "bound": Wanted(CHAT.format(QUESTION), BOUND, seed=12, max_tokens=60),
    "stopped": Wanted(CHAT.format(QUESTION), MIXED, seed=13, max_tokens=60, stops=("ing", "zzz", " a", "th")),
}

Answer = tuple[str, list[Token], str, str | None, int]


@pytest.fixture(
    scope="module",
    params=[{}, {"slice_seconds": 1e-6}, {"instruction_limit": 8_000_000_000}],
    ids=["tokens", "time", "instructions"],
)
async def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path_factory.mktemp("cuts"), **request.param) as found:
        await found.load(CHAT_MODEL)
        yield found


async def whole(harness: Harness, wanted: Wanted, chance: Random | None = None) -> Answer | None:
    """The answer; None: it was killed. chance: changes how much a call may decode, and kills."""
    text, tokens, n_done = "", list[Token](), 0
    async with aclosing(answers.answer(harness.canister, CONTROLLER, wanted)) as events:
        async for event in events:
            if isinstance(event, Piece):
                text += event.text
                tokens += event.tokens
            elif isinstance(event, Scored):
                assert event.first == len(tokens)
                tokens += event.tokens
            elif isinstance(event, Ingested):
                assert event.n_cached <= n_done or not n_done
                assert n_done < event.n_done <= event.n_prompt
                n_done = event.n_done
            else:
                assert isinstance(event, Answered)
                return text, tokens, event.finish, event.stop, event.n_generated
            if chance is not None and chance.random() < 0.2:
                await harness.limit(chance.randint(1, 30))
            if chance is not None and chance.random() < 0.02:
                return None
    raise AssertionError("no end")


@pytest.mark.parametrize("kind", WANTED)
async def test_however_it_is_cut_and_killed_the_answer_is_the_same(harness: Harness, kind: str) -> None:
    wanted = WANTED[kind]
    await harness.limit(0)
    expected = await whole(harness, wanted)
    assert expected is not None
    assert expected[4] > 5
    n_killed = 0
    for seed in range(4):
        chance = Random(seed)
        await harness.limit(chance.randint(1, 30))
        while (found := await whole(harness, wanted, chance)) is None:
            n_killed += 1
        assert found == expected
    assert n_killed
