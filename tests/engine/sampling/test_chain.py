"""Sampling: which tokens can come, how the draws are seeded, and that settings do what their flags promise."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from canister.engine.llama import Model
from canister.engine.sampling.binding import Gbnf
from canister.engine.sampling.chain import ChainSampler, mix
from canister.engine.sampling.samplers import Candidates, Sampler
from canister.errors import BadRequest
from canister.flags.params import SamplingParams
from tests.engine.driver import GREEDY, Driver
from tests.engine.gguf_writer import Plain
from tests.engine.test_batch_invariance import SAMPLED, some_prompt
from tests.engine.tiny_models import EOS, N_VOCAB, VOCABULARY, llama_model

PLAIN = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> Model:
    return Model(model_path("q8_0"), "tiny")


@pytest.fixture
def sampler(model: Model) -> Iterator[Callable[..., ChainSampler]]:
    made: list[ChainSampler] = []

    def make(
        params: SamplingParams = PLAIN,
        *,
        seed: int = 1,
        n_draws: int = 0,
        history: Sequence[int] = (),
        **changes: Any,
    ) -> ChainSampler:
        params = replace(params, **changes)
        binding = Gbnf(Sampler.grammar(model, params.grammar)) if params.grammar else None
        made.append(ChainSampler(model, Candidates(N_VOCAB), params, seed, n_draws, 100, binding))
        made[-1].begin(list(history), 0)
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[..., ChainSampler]


def logits_of(*weights: tuple[int, float]) -> np.ndarray:
    """Logits of tokens with these probabilities, up to a factor; all others next to impossible."""
    logits = np.full(N_VOCAB, -50.0, np.float32)
    for token, weight in weights:
        logits[token] = math.log(weight)
    return logits


def test_seeds_are_well_mixed() -> None:
    seeds = {mix(seed, number) for seed in range(100) for number in range(100)}
    assert len(seeds) > 9_980
    assert all(0 <= seed < 2**32 - 1 for seed in seeds)
    assert mix(-1, 0) == mix(2**64 - 1, 0)


def test_draws_follow_the_probabilities_along_a_chat_and_across_seeds(sampler: Make) -> None:
    logits = logits_of((5, 0.7), (6, 0.3))
    chat = sampler()
    along = np.array([chat.sample(logits, number) for number in range(2000)])
    across = np.array([sampler(seed=seed, n_draws=7).sample(logits, 7) for seed in range(2000)])
    for draws in (along, across):
        assert set(draws) == {5, 6}
        assert abs((draws == 5).mean() - 0.7) < 0.04
        assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.08


def test_a_draw_depends_on_seed_and_number_only(sampler: Make) -> None:
    logits = logits_of((5, 1.0), (6, 1.0), (7, 1.0))
    busy = sampler(xtc_probability=0.5)
    tokens = [busy.sample(logits, number) for number in range(150)]
    assert busy.n_draws == 150
    again = [sampler(xtc_probability=0.5, n_draws=number).sample(logits, number) for number in range(150)]
    assert again == tokens


def test_temperature_zero_is_the_likeliest(sampler: Make) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = rng.normal(0, 5, N_VOCAB).astype(np.float32)
        best = int(logits.argmax())
        assert sampler(GREEDY).sample(logits, 3) == best
        assert sampler(GREEDY, dry_multiplier=1.0).sample(logits, 3) == best
        assert sampler(GREEDY, grammar='root ::= [^"]*').sample(logits, 3) in range(N_VOCAB)
        assert sampler(SamplingParams(temperature=-1.0)).sample(logits, 3) == best
        assert sampler(PLAIN, top_k=1).sample(logits, 3) == best


def test_filters(sampler: Make) -> None:
    logits = logits_of((5, 0.6), (6, 0.25), (7, 0.1), (8, 0.05))

    def possible(**changes: Any) -> set[int]:
        chat = sampler(**changes)
        return {chat.sample(logits, number) for number in range(300)}

    assert possible() == {5, 6, 7, 8}
    assert possible(top_k=2) == {5, 6}
    assert possible(top_p=0.8) == {5, 6}
    assert possible(min_p=0.3) == {5, 6}
    assert possible(top_n_sigma=0.01) == {5}
    assert possible(typical_p=0.2) <= {5, 6, 7, 8}
    assert possible(xtc_probability=1.0, xtc_threshold=0.09) == {7, 8}
    assert possible(temperature=0.05) == {5}
    assert possible(samplers=(), top_k=1) == {5, 6, 7, 8}
    assert possible(logit_bias=((5, -math.inf), (8, -math.inf), (999_999, 3.0))) == {6, 7}
    assert possible(dynatemp_range=0.5) == {5, 6, 7, 8}
    assert possible(samplers=("top_k", "infill"), top_k=3) <= set(range(N_VOCAB))


@pytest.mark.parametrize("changes", [{"mirostat": 1}, {"mirostat": 2}, {"adaptive_target": 0.5}])
def test_samplers_that_choose_themselves(sampler: Make, changes: dict[str, Any]) -> None:
    chat = sampler(samplers=("top_k", "adaptive_p"), top_k=3, **changes)
    for number in range(50):
        token = chat.sample(logits_of((5, 0.6), (6, 0.3), (7, 0.1)), number)
        chat.accept(token)
        assert token in {5, 6, 7}


def test_ignore_eos(sampler: Make) -> None:
    logits = logits_of((EOS, 1000.0), (5, 1.0))
    assert sampler().sample(logits, 0) == EOS
    assert sampler(ignore_eos=True).sample(logits, 0) == 5
    assert sampler(GREEDY, ignore_eos=True).sample(logits, 0) == 5


def test_tokens_that_the_model_file_suppresses(tmp_path: Path) -> None:
    suppressed: Plain = array("i", [5, 7])
    model = Model(llama_model(tmp_path / "m.gguf", changes={"tokenizer.ggml.suppress_tokens": suppressed}), "tiny")
    assert model.suppressed_tokens == (5, 7)
    for params in (PLAIN, GREEDY):
        chat = ChainSampler(model, Candidates(N_VOCAB), params, 1, 0, 100)
        chat.begin(np.empty(0, np.int32), 0)
        assert chat.sample(logits_of((5, 0.6), (6, 0.3), (7, 0.1)), 0) == 6
        chat.close()


def test_what_ends_an_answer_is_no_text(tmp_path: Path) -> None:
    """Even where the file has it as one: a grammar must not take it for text."""
    kinds = VOCABULARY["tokenizer.ggml.token_type"]
    assert isinstance(kinds, array)
    user_defined: Plain = array("i", [*kinds[:EOS], 4, *kinds[EOS + 1 :]])
    model = Model(llama_model(tmp_path / "m.gguf", changes={"tokenizer.ggml.token_type": user_defined}), "tiny")
    assert model.eog_tokens == (EOS,)
    assert model.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": EOS}
    assert EOS in model.untexted_tokens


def test_special_tokens_are_those_that_no_text_makes(model: Model) -> None:
    assert model.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": EOS}
    assert model.untexted_tokens == {0, 1, EOS}
    assert model.pieces() == [model.piece(token, True) for token in range(N_VOCAB)]


def test_penalties_see_what_came_before(sampler: Make) -> None:
    logits = logits_of((5, 0.5), (6, 0.4))
    strong = {"presence_penalty": 20.0, "params": GREEDY}
    assert sampler(**strong).sample(logits, 9) == 5
    assert sampler(**strong, history=[5]).sample(logits, 9) == 6
    assert sampler(**strong, history=[5, *[9] * 100]).sample(logits, 9) == 5  # 64 tokens ago is forgotten
    assert sampler(**strong, history=[5, *[9] * 90], repeat_last_n=-1).sample(logits, 9) == 6
    assert sampler(**strong, history=[5], repeat_last_n=0).sample(logits, 9) == 5
    chat = sampler(**strong)
    chat.accept(5)
    assert chat.sample(logits, 9) == 6


def test_dry_sees_what_came_before(sampler: Make) -> None:
    logits = logits_of((300, 0.6), (301, 0.4))
    history = [290, 291, 292, 300, 9, 290, 291, 292]
    assert sampler(GREEDY, history=history).sample(logits, 9) == 300
    assert sampler(GREEDY, history=history, dry_multiplier=5.0).sample(logits, 9) == 301


def test_not_a_number(sampler: Make) -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(BadRequest, match="not a number"):
            sampler().sample(logits_of((5, 1.0)) + np.float32(bad), 0)
    with pytest.raises(BadRequest, match="No token may follow"):
        sampler(GREEDY, logit_bias=tuple((token, -math.inf) for token in range(N_VOCAB))).sample(logits_of(), 0)


def text_of(driver: Driver, tokens: list[int]) -> str:
    return b"".join(driver.engine.piece(token, False) for token in tokens).decode()


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_grammar_through_cut_calls(drive: Callable[..., Driver], params: SamplingParams) -> None:
    """The grammar knows what was generated in the calls before, and nothing of the prompt."""
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    sampling = replace(params, grammar='root ::= " "? [a-c] "-" [0-9] "+" ([x-z] "!")*')
    whole = driver.run(driver.chat(sampling=sampling).answer(some_prompt(4), 16))
    assert text_of(driver, whole).strip()[1::2][:2] == "-+"
    assert driver.run(driver.chat("k", sampling=sampling).answer(some_prompt(4), 16, [5, 27, 1, 2, 1, 3])) == whole


def test_another_grammar_begins_anew(drive: Callable[..., Driver]) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    chat = driver.chat("k", sampling=replace(SAMPLED, grammar='root ::= "abc"'))
    assert driver.run(chat.call(some_prompt(4))).eog
    driver.run(chat.answer([], 6, sampling=replace(SAMPLED, grammar='root ::= "xyz" [0-9]*')))
    assert text_of(driver, chat.sampled).startswith("abcxyz")


def test_json_schema(drive: Callable[..., Driver]) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=400)
    properties = {"n": {"type": "integer"}, "b": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": ["n", "b"]}
    sampling = replace(SAMPLED, json_schema=json.dumps(schema), repeat_penalty=1.0)
    for seed in range(5):
        result = driver.run(driver.chat(sampling=sampling, seed=seed).call(some_prompt(seed), n_predict=300))
        if result.eog:
            answer = json.loads(text_of(driver, result.sampled))
            assert isinstance(answer["n"], int)
            assert isinstance(answer["b"], bool)


@pytest.mark.parametrize("changes", [{}, {"ignore_eos": True}, {"logit_bias": ((3, 2.0), (3, -1.0), (4, -math.inf))}])
def test_likeliest_tokens_of_many_rows_are_those_of_each(sampler: Make, changes: dict[str, Any]) -> None:
    rows = np.random.default_rng(5).normal(size=(50, N_VOCAB)).astype(np.float32)
    rows[:10, 3] = rows[:10, 4] = rows[:10].max(axis=1)  # of equals, the first
    at_once, one_by_one = (sampler(temperature=0.0, **changes) for _ in range(2))
    before = rows.copy()
    found = at_once.sample_all(rows)
    assert found is not None
    assert found.tolist() == [one_by_one.sample(row, number) for number, row in enumerate(rows)]
    assert (rows == before).all()
    assert at_once.n_draws == one_by_one.n_draws == 50


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.8},
        {"repeat_penalty": 1.1},
        {"repeat_penalty": 1.1, "ignore_eos": True},
        {"dry_multiplier": 0.8},
        {"grammar": 'root ::= "a"*'},
        {"mirostat": 2},
    ],
)
def test_other_draws_depend_on_what_came_before(sampler: Make, changes: dict[str, Any]) -> None:
    rows = np.zeros((3, N_VOCAB), np.float32)
    assert sampler(**{"temperature": 0.0, **changes}).sample_all(rows) is None


def test_rows_of_a_broken_model_are_not_drawn_from_at_once(sampler: Make) -> None:
    rows = np.zeros((3, N_VOCAB), np.float32)
    rows[1, 5] = np.nan
    assert sampler(temperature=0.0).sample_all(rows) is None


def test_a_draw_that_is_rewound_is_the_same_as_often_as_it_is(sampler: Make) -> None:
    logits = logits_of(*((token, 1.0) for token in range(20)))
    chat = sampler()
    tokens = [chat.sample(logits, number) for number in range(60)]
    for n in (40, 40, 41, 40, 0, 59, 40):
        chat.rewind(n)
        assert [chat.sample(logits, number) for number in range(n, 60)] == tokens[n:]
