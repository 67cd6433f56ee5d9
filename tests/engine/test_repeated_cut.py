"""A chat whose KV memory is gone goes on as one that still has it, whatever the model: prompts are cut as before.

Most models here are exact on most processors, so that no cut matters; those that are not must repeat it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from canister.engine.kv.rows import state_of
from canister.flags.params import SamplingParams
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


@pytest.mark.parametrize("n_slots", [2, 8])
def test_k_quants_keep_what_prompts_can_have(drive: Drive, n_slots: int) -> None:
    """Where so many chats at once cannot be exact, each alone still is the same however its prompt is cut."""
    driver = drive("q4_k_m", n_ctx=256, n_slots=n_slots)
    policy = driver.engine.info.policy
    assert not policy.flash_attn
    if policy.repeats_cut:
        pytest.skip(f"this processor has no rule for prompts: {policy.why}")
    layout = driver.engine._core.runner._traits.layout
    prompt = [Random(3).randrange(3, 500) for _ in range(150)]
    rows = []
    for n, cuts in enumerate(((), (1, 2, 3, 5, 7, 13, 17) * 3, (64,), (100, 1))):
        chat = driver.chat(str(n), caller=str(n))
        for cut in (*cuts, None):
            driver.run(chat.call([] if chat.prompt or chat.tokens else prompt, max_decode=cut, n_predict=0))
        assert len(chat.tokens) == len(prompt)
        rows.append(state_of(layout, chat.segments, len(prompt), 1)[1].tobytes())
    assert all(each == rows[0] for each in rows)
