"""Logits from one engine to the next: exactly those, for exactly that conversation, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.engine import Engine, LoadParams
from canister.engine.kv.logits_file import MOST_ENTRIES, LogitsFile, Origin, write
from canister.engine.kv.slots import Slot
from tests.engine.driver import NOTHING, Chat, Driver
from tests.engine.test_batch_invariance import SAMPLED, some_prompt

N_VOCAB = 7
ORIGIN = Origin.of(N_VOCAB, b"model", "llama.cpp", "processor")


def ended(key: str | None, tokens: list[int], logits: list[float] | None, caller: str = "me") -> Slot:
    flags = np.arange(len(tokens)) % 3 == 1
    known = None if logits is None else np.array(logits, np.float32)
    return Slot(0, key, caller, tokens=np.array(tokens, np.int32), generated=flags, logits=known)


def found(logits_file: LogitsFile, place: Slot, **changes: object) -> list[float] | None:
    asked = replace(place, **changes)
    logits = logits_file.logits(asked.key or "", asked.caller, asked.tokens, asked.generated, asked.starts)
    return None if logits is None else logits.tolist()


floats = st.lists(st.floats(width=32, allow_nan=False), min_size=N_VOCAB, max_size=N_VOCAB)
places = st.builds(ended, st.text(max_size=5), st.lists(st.integers(0, N_VOCAB), max_size=5), st.none() | floats)


@given(st.lists(places, max_size=5, unique_by=lambda place: place.key))
def test_what_was_left_is_found_once(tmp_path_factory: pytest.TempPathFactory, left: list[Slot]) -> None:
    path = tmp_path_factory.mktemp("engine") / "engine.logits"
    write(path, ORIGIN, left)
    logits_file = LogitsFile.take(path, ORIGIN)
    assert [*path.parent.iterdir()] == []
    for place in left:
        assert found(logits_file, place) == (None if place.logits is None else place.logits.tolist())
    logits_file.close()
    assert [found(logits_file, place) for place in left] == [None] * len(left)


@given(st.data())
def test_damage_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("engine") / "engine.logits"
    left = [ended(key, [1, 2, 3], [*range(N_VOCAB)]) for key in "ab"]
    write(path, ORIGIN, left)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content) - 1), "size") :]
    else:
        content[data.draw(st.integers(0, len(content) - 1), "at")] ^= data.draw(st.integers(1, 255), "by")
    path.write_bytes(content)
    logits_file = LogitsFile.take(path, ORIGIN)
    answers = [found(logits_file, place) for place in left]
    logits_file.close()
    assert None in answers
    assert all(answer in (None, [*range(N_VOCAB)]) for answer in answers)


def test_nobody_else_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "engine.logits"
    place = ended("chat", [1, 2, 3], [*range(N_VOCAB)])
    for origin in (Origin.of(N_VOCAB, b"another model"), Origin.of(N_VOCAB + 1, b"model")):
        write(path, ORIGIN, [place])
        assert len(LogitsFile.take(path, origin)) == 0
    write(path, ORIGIN, [place])
    logits_file = LogitsFile.take(path, ORIGIN)
    assert found(logits_file, place, caller="somebody else") is None
    assert found(logits_file, place, key="another chat") is None
    assert found(logits_file, place, tokens=np.array([1, 2, 4], np.int32)) is None
    assert found(logits_file, place, tokens=place.tokens[:2], generated=place.generated[:2]) is None
    assert found(logits_file, place, generated=~place.generated) is None
    assert found(logits_file, place) is not None
    logits_file.forget("chat")
    assert found(logits_file, place) is None
    logits_file.close()


def test_the_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "engine.logits"
    left = [ended(str(n), [n], [float(n)] * N_VOCAB) for n in range(MOST_ENTRIES + 1)]
    write(path, ORIGIN, left)
    logits_file = LogitsFile.take(path, ORIGIN)
    assert len(logits_file) == MOST_ENTRIES
    assert (found(logits_file, left[0]), found(logits_file, left[-1])) == ([0.0] * N_VOCAB, None)
    logits_file.close()


def test_a_link_is_not_followed_and_what_cannot_be_written_is_left(tmp_path: Path) -> None:
    decoy, path = tmp_path / "decoy", tmp_path / "engine.logits"
    place = ended("chat", [1], [*range(N_VOCAB)])
    write(decoy, ORIGIN, [place])
    path.symlink_to(decoy)
    assert len(LogitsFile.take(path, ORIGIN)) == 0
    assert decoy.exists()
    write(tmp_path / "missing" / "engine.logits", ORIGIN, [place])
    assert len(LogitsFile.take(None, ORIGIN)) == 0


@pytest.mark.parametrize("model", ["f32", "q8_0"])
def test_a_chat_goes_on_in_the_next_engine_without_a_decode(
    model_path: Callable[[str], Path], tmp_path: Path, model: str
) -> None:
    """Chats that end with a prompt and with a generated token, one in a slot and one parked: the same bits as alone."""
    path = tmp_path / "engine.logits"
    params = {"n_slots": 1, "n_ctx": 300, "ram_bytes": 1 << 24, "model_id": model.encode(), "logits_file": path}
    defaults = replace(NOTHING, sampling=replace(SAMPLED, ignore_eos=True))

    async def play(engine: Engine, chats: list[Chat]) -> None:
        for n, chat in enumerate(chats):
            await chat.call(some_prompt(n, 80), n_predict=0)
            if n:
                await chat.call(max_decode=5)

    async def alone() -> list[list[int]]:
        engine = await Engine.load(LoadParams(model_path(model), **params | {"logits_file": None}))
        chats = [Chat(engine, None, replace(defaults, seed=n)) for n in range(2)]
        await play(engine, chats)
        expected = [await chat.answer([], 10) for chat in chats]
        await engine.close()
        return expected

    async def resumed() -> list[list[int]]:
        engine = await Engine.load(LoadParams(model_path(model), **params))
        chats = [Chat(engine, f"chat {n}", replace(defaults, seed=n, caller=f"caller {n}")) for n in range(2)]
        await play(engine, chats)
        await engine.close()
        assert path.exists()
        engine = await Engine.load(LoadParams(model_path(model), **params))
        answers = []
        for chat in chats:
            chat.engine = engine
            before = engine.stats()
            tokens, flags = np.array(chat.tokens, np.int32), np.array(chat.generated)
            assert chat.key is not None
            caller = chat.defaults.caller
            engine.prefetcher.park(
                chat.key, caller, tokens, flags, np.zeros_like(flags), chat._restore, with_logits=True
            )
            answer = await chat.call(n_predict=1)
            assert len(answer.sampled) == 1
            after = engine.stats()
            assert (after.n_rows, after.n_prompt_tokens) == (before.n_rows, before.n_prompt_tokens)
            answers.append(await chat.answer([], 10))
        await engine.close()
        return answers

    assert asyncio.run(resumed()) == asyncio.run(alone())


def test_an_engine_that_is_torn_down_leaves_nothing(model_path: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "engine.logits"
    with Driver(model_path("q8_0"), n_slots=1, n_ctx=300, model_id=b"id", logits_file=path) as driver:
        driver.run(driver.chat("a").answer(some_prompt(1), 5))
        driver.run(driver.engine.close(drain=False))
        assert not path.exists()
