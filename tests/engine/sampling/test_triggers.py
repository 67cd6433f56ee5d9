"""A grammar that binds from a text on: wherever the text begins and ends within tokens, and however it is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from canister.engine.llama import Model
from canister.engine.sampling.binding import Binding, Guided
from canister.engine.sampling.chain import ChainSampler
from canister.engine.sampling.llguidance import GrammarLimits, TokenTable
from canister.engine.sampling.samplers import Candidates
from canister.engine.sampling.triggers import Triggered
from canister.flags.params import SamplingParams
from tests.engine.driver import Driver
from tests.engine.test_batch_invariance import some_prompt
from tests.engine.tiny_models import N_VOCAB

END, OPEN, CALLS = 0, 1, 2
WORDS = [b"<to", b'ol>{"', b"ol>x", b" <tool>", b"a<", b'"}']
TOKENS = [b"<end>", b"<open>", b"[CALLS]", *(bytes([i]) for i in range(256)), *WORDS]
SPECIAL = frozenset([END, OPEN, CALLS])
LARK = 'start: "<tool>" body ("<tool>" body)*\nbody: "{\\"" /[a-z]+/ "\\"}"'


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return TokenTable(TOKENS, SPECIAL, [END])


def triggered(table: TokenTable, lark: str, *triggers: str) -> Triggered:
    binding = Guided(frozenset([END]), table.matcher("lark", lark, GrammarLimits()))
    return Triggered(binding, triggers, TOKENS.__getitem__, table.spelled)


def tokens(*parts: str) -> list[int]:
    """Each part one token if there is one, else its bytes."""
    found: list[int] = []
    for part in parts:
        text = part.encode()
        found += [TOKENS.index(text)] if text in TOKENS else [3 + byte for byte in text]
    return found


def fed(binding: Binding, parts: Sequence[int]) -> int | None:
    """Feed these tokens; the place of the first that does not fit."""
    for at, token in enumerate(parts):
        if not binding.fits(token):
            return at
        binding.accept(token)
    return None


@pytest.mark.parametrize(
    "before", [["<to", 'ol>{"'], ["<tool>", '{"'], [" <tool>", '{"'], ["a<", "tool>", '{"'], ["some <too", "l>", '{"']]
)
def test_it_binds_from_the_text_on(table: TokenTable, before: list[str]) -> None:
    binding = triggered(table, LARK, "<tool>", "never")
    assert binding.fits(END)  # before it, the answer may end
    assert fed(binding, tokens("anything } goes", *before)) is None
    assert not binding.fits(END)
    assert not binding.fits(tokens("1")[0])
    assert fed(binding, tokens("abc", '"}')) is None
    assert [token for token in range(len(TOKENS)) if binding.fits(token)] == [END, *tokens("<", "<to")]
    assert fed(binding, tokens("<to", 'ol>{"', "q", '"}')) is None
    binding.close()


def test_a_token_that_goes_on_wrongly_behind_the_text_does_not_fit(table: TokenTable) -> None:
    binding = triggered(table, LARK, "<tool>")
    assert fed(binding, tokens("x <to")) is None
    assert not binding.fits(tokens("ol>x")[0])
    assert binding.fits(tokens('ol>{"')[0])
    assert binding.fits(tokens("x")[0])


def test_special_tokens(table: TokenTable) -> None:
    """By their numbers, or by their texts where the grammar knows no better; never by bytes that look like them."""
    for lark in ('start: <[2]> "a"', 'start: "[CALLS]" "a"'):
        binding = triggered(table, lark, "[CALLS]")
        assert fed(binding, [*tokens("x"), CALLS, *tokens("a")]) is None
        assert [token for token in range(len(TOKENS)) if binding.fits(token)] == [END]
    both = triggered(table, 'start: <[1]> "to=" <[2]> "a"', "<open>to=")
    assert fed(both, [OPEN, *tokens("x"), OPEN, *tokens("to="), CALLS, *tokens("a")]) is None
    assert not both.fits(OPEN)


@pytest.mark.parametrize("thought", [["<open>", "<tool>", "{"], ["<open>", "x<too", "l>", "{", "</ope", "</open>"]])
def test_nothing_triggers_in_a_thought(table: TokenTable, thought: list[str]) -> None:
    """Told by its marks, wherever tokens end; what follows it triggers."""
    begun = Guided(frozenset([END]), table.matcher("lark", LARK, GrammarLimits()))
    quiet = [("<open>", "</think>")]
    binding = Triggered(begun, ["<tool>"], TOKENS.__getitem__, table.spelled, quiet)
    assert fed(binding, [*tokens(*thought), *tokens("</th", "in", "k", "> <too")]) is None
    assert binding.fits(END)
    assert fed(binding, tokens("l>")) is None
    assert not binding.fits(END)
    assert fed(binding, tokens('{"', "abc", '"}')) is None
    again = binding.begun()
    assert fed(again, tokens("<open>", "<tool>", "x")) is None
    assert again.fits(END)


def test_nothing_triggers_before_a_thought_ends_that_the_prompt_began(table: TokenTable) -> None:
    begun = Guided(frozenset([END]), table.matcher("lark", LARK, GrammarLimits()))
    binding = Triggered(begun, ["<tool>"], TOKENS.__getitem__, table.spelled, [("", "</think>")])
    assert fed(binding, tokens("<tool>x", "</thi", "nk><tool>")) is None
    assert not binding.fits(END)
    again = binding.begun()
    assert fed(again, tokens("<tool>x")) is None
    assert again.fits(END)


def test_begun(table: TokenTable) -> None:
    binding = triggered(table, LARK, "<tool>")
    assert fed(binding, tokens("<tool>")) is None
    again = binding.begun()
    assert not binding.fits(END)
    assert again.fits(END)
    assert fed(again, tokens('<tool>{"a')) is None


def test_the_next_choice_where_the_first_does_not_fit(table: TokenTable, model_path: Callable[[str], Path]) -> None:
    """All tokens that would end the trigger wrongly are passed over; it takes one second draw."""
    model = Model(model_path("q8_0"), "tiny")
    byte = {chr(i): 3 + i for i in range(256)}
    own = TokenTable(model.pieces(), model.untexted_tokens, model.eog_tokens)
    start = own.matcher("lark", 'start: /[abc]#/ "z"', GrammarLimits())
    for params in (SamplingParams(temperature=0.0), SamplingParams(temperature=0.8, top_k=0)):
        bound = Guided(frozenset(model.eog_tokens), start)
        binding = Triggered(bound, ["a#", "d#"], partial(model.piece, special=True), own.spelled)
        chain = ChainSampler(model, Candidates(N_VOCAB), params, 5, 0, 100, binding)
        chain.begin(np.array([], np.int32), 0)
        chain.accept(byte["d"])
        logits = np.full(N_VOCAB, -20.0, np.float32)
        logits[byte["#"]] = 20.0  # "d#" is a trigger, and not what the grammar begins with
        logits[byte["q"]] = 10.0
        assert chain.sample(logits, 1) == byte["q"]
        assert chain.n_draws == 2
        chain.accept(byte["q"])
        chain.accept(byte["a"])
        assert chain.sample(logits, 3) == byte["#"]
        chain.accept(byte["#"])
        assert chain.sample(logits, 4) == byte["z"]
        chain.close()


def test_through_cut_calls(drive: Callable[..., Driver]) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=300)
    hot = SamplingParams(temperature=3.0, top_k=0, top_p=1.0, min_p=0.0)
    n_bound = 0
    for seed in range(6):
        lark = 'start: ("e" | "t" | "w") /[0-9]{2}!/ "."*'
        sampling = replace(hot, lark=lark, grammar_triggers=("e", "t", "w"))
        whole = driver.run(driver.chat(sampling=sampling, seed=seed).answer(some_prompt(seed), 60))
        text = b"".join(driver.engine.piece(token, False) for token in whole).decode(errors="replace")
        first = min((at for at in map(text.find, "etw") if at >= 0), default=None)
        if first is not None and len(text) > first + 4:
            n_bound += 1
            assert text[first + 1 : first + 3].isdigit()
            assert set(text[first + 4 :]) <= {"."}
        cut = driver.chat(f"k{seed}", sampling=sampling, seed=seed).answer(some_prompt(seed), 60, [5, 27, 1, 2, 1, 3])
        assert driver.run(cut) == whole
    assert n_bound > 2
