"""An engine that must do without something that llama.cpp cannot do here: it does, and is as exact as before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import pytest

from canister.engine.engine import LoadParams
from canister.engine.llama import Context, Model
from canister.engine.llama_types import ContextParams
from canister.engine.load.ways import Attention, Restrictions, Way, choose
from tests.engine.driver import GREEDY, Driver
from tests.engine.test_batch_invariance import some_prompt

Drive = Callable[..., Driver]


@pytest.mark.parametrize("model", ["q8_0", "mamba"])
@pytest.mark.parametrize("most", [1, 8])
def test_llama_cpp_is_given_no_more_rows_than_it_survives(
    model: str, most: int, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, several chats at once and calls of any length, decoded in pieces; the texts are those of one piece."""
    given: list[int] = []
    decode = llama_cpp.llama_decode

    def counted(context: object, batch: llama_cpp.llama_batch) -> int:
        given.append(batch.n_tokens)
        return decode(context, batch)

    async def chats(driver: Driver) -> list[list[int]]:
        talks = [driver.chat(f"chat {i}", sampling=GREEDY).answer(some_prompt(40, i), 12, (7, 5)) for i in range(3)]
        return await asyncio.gather(*talks)

    whole = drive(model, n_slots=3)
    expected = whole.run(chats(whole))
    whole.close()  # or what it decodes ahead, for calls that may still come, is counted too
    monkeypatch.setattr(llama_cpp, "llama_decode", counted)
    cut = drive(model, n_slots=3, restrictions=Restrictions(max_rows=most))
    assert cut.run(chats(cut)) == expected
    assert max(given) == most if model == "q8_0" else max(given) <= most
    alone = drive(model, n_slots=3, restrictions=Restrictions(max_rows=most))
    assert [alone.run(alone.chat().answer(some_prompt(40, i), 12)) for i in range(3)] == expected


def test_logits_of_pieces_are_those_of_their_rows(model_path: Callable[[str], Path]) -> None:
    model = Model(model_path("q8_0"), "tiny")
    rows, streams = 13, [0] * 5 + [1] * 8
    positions = [*range(5), *range(8)]
    tokens = [7 * row % model.n_vocab for row in range(rows)]
    seen = []
    for most in (0, 3):
        context = Context(model, ContextParams(2, 256, 16, 1, most_at_once=most), "tiny")
        context.decode(streams, positions, tokens, [4, 12])
        seen.append([context.logits(row).argsort()[-5:].tolist() for row in (4, 12)])
        with pytest.raises(Exception, match="row 5 has no logits"):
            context.logits(5)
        context.close()
    assert seen[0] == seen[1]


def test_extra_buffers_can_be_left_out(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    load = llama_cpp.llama_model_load_from_file

    def seen(path: bytes, params: llama_cpp.llama_model_params) -> object:
        asked.append(params.use_extra_bufts)
        return load(path, params)

    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", seen)
    with_them, without = drive("q4_0"), drive("q4_0", restrictions=Restrictions(extra_buffers=False))
    assert asked == [True, False]
    for driver in (with_them, without):
        assert len(driver.run(driver.chat().answer(some_prompt(20), 5))) == 5
    # What was measured and what was left behind of one is not the other's.
    assert with_them.engine.info.origin != without.engine.info.origin


@pytest.mark.parametrize("exact", ["auto", "off"])
def test_attention_is_what_works(exact: str, drive: Drive) -> None:
    for flash, is_flash in (("off", False), ("on", True)):
        info = drive("q8_0", exact=exact, restrictions=Restrictions(flash=flash)).engine.info
        assert info.flash_attn == is_flash
        if is_flash:
            assert info.policy.why == f"{exact}: llama.cpp works here with flash attention alone"


@pytest.mark.parametrize(
    ("exact", "flash_attn", "type_v", "ways"),
    [
        ("auto", "auto", "f16", ("off", "on")),
        ("off", "auto", "f16", ("on", "off")),
        ("on", "auto", "f16", ("off",)),
        ("off", "off", "f16", ("off",)),
        ("auto", "on", "f16", ("on",)),
        ("auto", "auto", "q8_0", ("on",)),
    ],
)
def test_ways_of_attention(exact: str, flash_attn: str, type_v: str, ways: tuple[Attention, ...]) -> None:
    params = LoadParams(Path("x"), exact=exact, flash_attn=flash_attn, type_v=type_v)  # type: ignore[arg-type]
    assert params.ways_of_attention() == ways


EXTRA, PLAIN = True, False
NO_FLASH, FLASH = False, True


@pytest.mark.parametrize(
    ("tried", "ways", "expected"),
    [
        # Each kind has faults of its own: taken is what every one survives.
        (
            {
                "a": {Way(EXTRA, NO_FLASH): "crashed", Way(PLAIN, NO_FLASH): ""},
                "b": {Way(EXTRA, NO_FLASH): "", Way(PLAIN, NO_FLASH): ""},
            },
            ("off",),
            Restrictions(extra_buffers=False),
        ),
        # More rows are better than extra buffers, these better than nothing.
        (
            {
                "a": {
                    Way(EXTRA, NO_FLASH): "crashed",
                    Way(PLAIN, NO_FLASH): "crashed",
                    Way(EXTRA, NO_FLASH, 1): "",
                    Way(PLAIN, NO_FLASH, 8): "",
                }
            },
            ("off",),
            Restrictions(extra_buffers=False, max_rows=8),
        ),
        (
            {
                "a": {
                    Way(EXTRA, NO_FLASH): "crashed",
                    Way(PLAIN, NO_FLASH): "crashed",
                    Way(EXTRA, NO_FLASH, 1): "",
                    Way(PLAIN, NO_FLASH, 1): "crashed",
                }
            },
            ("off",),
            Restrictions(max_rows=1),
        ),
        # Caps of different kinds: the smallest.
        (
            {
                "a": {Way(EXTRA, NO_FLASH): "crashed", Way(EXTRA, NO_FLASH, 8): ""},
                "b": {Way(EXTRA, NO_FLASH): "crashed", Way(EXTRA, NO_FLASH, 32): ""},
                "c": {Way(EXTRA, NO_FLASH): ""},
            },
            ("off",),
            Restrictions(max_rows=8),
        ),
        # What is wanted first decides where both survive in different ways.
        ({"a": {Way(EXTRA, NO_FLASH): "", Way(EXTRA, FLASH): ""}}, ("off", "on"), Restrictions()),
        ({"a": {Way(EXTRA, NO_FLASH): "", Way(EXTRA, FLASH): "crashed"}}, ("on", "off"), Restrictions(flash="off")),
        ({"a": {Way(EXTRA, NO_FLASH): "", Way(EXTRA, FLASH): "crashed"}}, ("on",), None),
        ({"a": {Way(EXTRA, NO_FLASH): "crashed"}}, ("off", "on"), None),
    ],
)
def test_choice(tried: dict[str, dict[Way, str]], ways: tuple[Attention, ...], expected: Restrictions | None) -> None:
    assert choose(tried, ways) == expected
