"""A chat whose KV memory is gone goes on as one that still has it, whatever the model: prompts are cut as before.

Most models here are exact on most processors, so that no cut matters; those that are not must repeat it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from canister.engine.sampling import SamplingParams
from tests.engine.conftest import MAKERS
from tests.engine.driver import Chat, Driver

Drive = Callable[..., Driver]

N_CALLS = 14


async def talk(chat: Chat, between: Callable[[], None] = lambda: None, **changes: object) -> list[object]:
    """Prompts and answers in calls of a few tokens; what each call gave."""
    dice = Random(4)
    given: list[object] = []
    for n in range(N_CALLS):
        if n % 6 == 0:
            chat.prompt += [dice.randrange(3, 500) for _ in range(11)]
        result = await chat.call(max_decode=dice.choice([1, 3, 3, 3, 5]), **changes)
        given.append((result.finish, result.prompt_chunks, result.sampled, result.n_generated))
        between()
    return given


@pytest.mark.parametrize("model", [f"{kind} {file_type}" for kind in MAKERS for file_type in ("q8_0", "q4_k_m", "f16")])
@pytest.mark.parametrize("exact", ["auto", "off"])
def test_a_chat_that_lost_its_memory_between_any_two_calls_goes_on_the_same(
    drive: Drive, model: str, exact: str
) -> None:
    driver = drive(model, n_ctx=128, n_slots=2, exact=exact)
    sampling = SamplingParams(temperature=0.9)
    calm, killed, damaged = (driver.chat(name, sampling=sampling, seed=7, caller=name) for name in "abc")
    expected = driver.run(talk(calm))
    assert driver.run(talk(killed, lambda: driver.engine.forget("b"))) == expected
    # Nor does it matter when its rows cannot be read, and all is decoded again.
    assert driver.run(talk(damaged, lambda: driver.engine.forget("c"), use_rows=False)) == expected
    for other in (killed, damaged):
        assert (other.tokens, other.generated, other.starts) == (calm.tokens, calm.generated, calm.starts)
