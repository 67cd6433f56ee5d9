"""A draft model's memory stays in step with chats that grow, are cut, and take each other's slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from canister.engine.drafting.model import MOST_BEHIND, DraftModel
from canister.engine.llama import Context, Model
from canister.engine.llama_types import ContextParams, EngineFault
from canister.engine.request import Tokens
from tests.engine.tiny_models import N_VOCAB

N_CELLS = 512


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> Model:
    return Model(model_path("q8_0"), "tiny")


@pytest.fixture
def make(model: Model) -> Iterator[Callable[..., DraftModel]]:
    contexts: list[Context] = []

    def made(p_min: float = 0.0) -> DraftModel:
        contexts.append(Context(model, ContextParams(2, N_CELLS, MOST_BEHIND, 1), "tiny"))
        return DraftModel(model, contexts[-1], "tiny", N_VOCAB, n_min=0, p_min=p_min)

    yield made
    for context in contexts:
        context.close()


def some(seed: int, n: int) -> Tokens:
    return np.random.default_rng(seed).integers(260, N_VOCAB, n).astype(np.int32)


def test_guesses_are_those_of_a_model_that_begins_with_what_it_sees(make: Callable[..., DraftModel]) -> None:
    """Whatever the streams had before: a longer chat, another one, guesses that did not come."""
    kept, rng = make(), np.random.default_rng(3)
    chats = [some(1, 30), some(2, 5)]
    for turn in range(24):
        number = turn % 2
        chat = chats[number]
        guessed = kept.draft(number, chat, 6)
        first = kept._streams[number].first
        assert len(chat) - first <= N_CELLS
        fresh = make()
        assert guessed.tolist() == fresh.draft(0, chat[first:], 6).tolist()
        match turn % 6:
            case 0 | 1:
                chats[number] = np.concatenate((chat, guessed[:3], some(turn, 4)))  # some came
            case 2:
                chats[number] = np.concatenate((chat, some(turn, int(rng.integers(1, 200)))))
            case 3:
                chats[number] = np.concatenate((chat, some(turn, 400)))  # more than it decodes to catch up
            case 4:
                chats[number] = chat[: len(chat) // 2]
            case _:
                chats[number] = some(turn, 12)


def test_it_sees_a_chat_from_its_beginning_as_long_as_there_is_room(make: Callable[..., DraftModel]) -> None:
    draft, chat = make(), some(5, 100)
    firsts = []
    while len(chat) < 2 * N_CELLS:
        draft.draft(0, chat, 2)
        firsts.append(draft._streams[0].first)
        chat = np.concatenate((chat, some(len(chat), 50)))
    assert firsts[0] == 0
    assert firsts == sorted(firsts)
    assert firsts.count(0) == sum(len(chat) < N_CELLS for chat in (range(100 + 50 * n) for n in range(len(firsts))))


def test_it_guesses_no_further_than_it_is_sure(make: Callable[..., DraftModel]) -> None:
    chat = some(6, 20)
    assert len(make().draft(0, chat, 5)) == 5
    assert len(make(p_min=1.1).draft(0, chat, 5)) == 0


def test_a_model_that_fails_is_not_asked_again(
    make: Callable[..., DraftModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, asked = make(), list[int]()

    def failing(*_: object) -> None:
        asked.append(1)
        raise EngineFault("a fault")

    monkeypatch.setattr(draft._context, "decode", failing)
    assert [len(draft.draft(0, some(7, 9), 4)) for _ in range(3)] == [0, 0, 0]
    assert len(asked) == 1
