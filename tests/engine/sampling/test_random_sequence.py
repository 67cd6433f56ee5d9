"""The same tokens as llama.cpp's own sampler chain with the same seed, however an answer is cut into calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import llama_cpp as lib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.engine.llama import Model
from canister.engine.sampling.binding import Gbnf
from canister.engine.sampling.chain import ChainSampler
from canister.engine.sampling.samplers import Candidates, Sampler
from canister.flags.params import SamplingParams
from tests.engine.driver import Driver
from tests.engine.test_batch_invariance import some_prompt
from tests.engine.tiny_models import N_VOCAB

N_TOKENS = 60
GRAMMAR = 'root ::= ([a-c] | " " [d-z]+ "!")* "."'


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> Model:
    return Model(model_path("q8_0"), "tiny")


class Peer:
    """What llama.cpp's common_sampler_init and common_sampler_sample make of the settings: one chain, all in one go."""

    def __init__(self, model: Model, p: SamplingParams, seed: int) -> None:
        self.chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        dry = [word.encode() for word in p.dry_sequence_breakers]
        n = model.n_vocab
        made = {
            "penalties": lib.llama_sampler_init_penalties(
                n, p.repeat_last_n, p.repeat_penalty, p.frequency_penalty, p.presence_penalty
            ),
            "dry": lib.llama_sampler_init_dry(
                model.vocab,
                p.dry_multiplier,
                p.dry_base,
                p.dry_allowed_length,
                p.dry_penalty_last_n,
                (lib.ctypes.c_char_p * len(dry))(*dry),
                len(dry),
            ),
            "top_n_sigma": lib.llama_sampler_init_top_n_sigma(p.top_n_sigma),
            "top_k": lib.llama_sampler_init_top_k(p.top_k),
            "typ_p": lib.llama_sampler_init_typical(p.typical_p, p.min_keep),
            "top_p": lib.llama_sampler_init_top_p(p.top_p, p.min_keep),
            "min_p": lib.llama_sampler_init_min_p(p.min_p, p.min_keep),
            "xtc": lib.llama_sampler_init_xtc(p.xtc_probability, p.xtc_threshold, p.min_keep, seed),
            "temperature": lib.llama_sampler_init_temp_ext(p.temperature, p.dynatemp_range, p.dynatemp_exponent),
        }
        if p.mirostat:
            made = {"temperature": lib.llama_sampler_init_temp(p.temperature)}
        for sampler in made.values():
            lib.llama_sampler_chain_add(self.chain, sampler)
        last = lib.llama_sampler_init_dist(seed)
        if p.mirostat == 1:
            last = lib.llama_sampler_init_mirostat(n, seed, p.mirostat_tau, p.mirostat_eta, 100)
        elif p.mirostat == 2:
            last = lib.llama_sampler_init_mirostat_v2(seed, p.mirostat_tau, p.mirostat_eta)
        lib.llama_sampler_chain_add(self.chain, last)
        self.grammar = None
        if p.grammar:
            self.grammar = lib.llama_sampler_init_grammar(model.vocab, p.grammar.encode(), b"root")

    def close(self) -> None:
        for sampler in (self.chain, self.grammar):
            if sampler is not None:
                lib.llama_sampler_free(sampler)

    def sample(self, logits: np.ndarray) -> int:
        token = self._choose(logits, None)
        if self.grammar is not None and not self._fits(token):
            token = self._choose(logits, self.grammar)
        for sampler in (self.grammar, self.chain):
            if sampler is not None:
                lib.llama_sampler_accept(sampler, token)
        return token

    def _choose(self, logits: np.ndarray, grammar: object) -> int:
        entries = [lib.llama_token_data(token, float(logit), 0.0) for token, logit in enumerate(logits)]
        data = (lib.llama_token_data * len(entries))(*entries)
        array = lib.llama_token_data_array(data, len(entries), -1, False)
        if grammar is not None:
            lib.llama_sampler_apply(grammar, lib.ctypes.byref(array))
        lib.llama_sampler_apply(self.chain, lib.ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _fits(self, token: int) -> bool:
        data = (lib.llama_token_data * 1)(lib.llama_token_data(token, 1.0, 0.0))
        array = lib.llama_token_data_array(data, 1, -1, False)
        lib.llama_sampler_apply(self.grammar, lib.ctypes.byref(array))
        return float(data[0].logit) != -math.inf


def some_logits(seed: int, n: int = N_TOKENS) -> np.ndarray:
    logits: np.ndarray = np.random.default_rng(seed).normal(0, 3, (n, N_VOCAB)).astype(np.float32)
    return logits


SETTINGS = {
    "plain": SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0),
    "usual": SamplingParams(),
    "cool": SamplingParams(temperature=0.3, top_p=0.9),
    "hot": SamplingParams(temperature=1.7, top_k=0, min_p=0.01),
    "greedy": SamplingParams(temperature=0.0),
    "all": SamplingParams(
        temperature=1.2,
        top_k=200,
        typical_p=0.98,
        top_n_sigma=3.0,
        dynatemp_range=0.4,
        repeat_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        dry_multiplier=0.7,
        min_keep=2,
    ),
    "grammar": SamplingParams(grammar=GRAMMAR, temperature=1.3),
    "grammar, greedy": SamplingParams(grammar=GRAMMAR, temperature=0.0),
}


@pytest.mark.parametrize("name", SETTINGS)
@given(seed=st.integers(0, 2**32 - 2), cuts=st.lists(st.integers(1, 20), max_size=8))
@settings(max_examples=12, deadline=None)
def test_the_tokens_of_llama_cpp_however_cut(model: Model, name: str, seed: int, cuts: list[int]) -> None:
    params, logits = SETTINGS[name], some_logits(seed)
    with closing(Peer(model, params, seed)) as peer:
        expected = [peer.sample(row) for row in logits]
    start = Sampler.grammar(model, params.grammar) if params.grammar else None
    candidates, tokens, n_draws, n_twice = Candidates(model.n_vocab), list[int](), 0, 0
    while len(tokens) < N_TOKENS:
        binding = None if start is None else Gbnf(start)
        with closing(ChainSampler(model, candidates, params, seed, n_draws, 512, binding)) as sampler:
            sampler.begin(np.array(tokens, np.int32), len(tokens))
            for _ in range(min(cuts.pop() if cuts else N_TOKENS, N_TOKENS - len(tokens))):
                tokens.append(sampler.sample(logits[len(tokens)], len(tokens)))
                sampler.accept(tokens[-1])
                n_twice += sampler.n_draws - n_draws - 1
                n_draws = sampler.n_draws
    assert tokens == expected
    assert n_draws == N_TOKENS + n_twice
    assert bool(n_twice) == bool(params.grammar)


@pytest.mark.parametrize(
    "params",
    [SamplingParams(mirostat=1), SamplingParams(mirostat=2), SamplingParams(mirostat=2, temperature=1.5)],
    ids=str,
)
def test_mirostat_in_one_call(model: Model, params: SamplingParams) -> None:
    logits = some_logits(1)
    with (
        closing(Peer(model, params, 99)) as peer,
        closing(ChainSampler(model, Candidates(model.n_vocab), params, 99, 0, 512)) as sampler,
    ):
        sampler.begin(np.empty(0, np.int32), 0)
        assert [sampler.sample(row, at) for at, row in enumerate(logits)] == [peer.sample(row) for row in logits]


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 33, 100, 1000, 4097])
def test_a_sequence_is_entered_anywhere(n: int) -> None:
    candidates, one_by_one = Candidates(1), Sampler.dist(7, 0)
    candidates.only(0)
    for _ in range(n):
        one_by_one.apply(candidates)
    logits = np.zeros(1000, np.float32)
    chosen, at_once = Candidates(1000), Sampler.dist(7, n)
    for _ in range(3):
        found = []
        for sampler in (one_by_one, at_once):
            chosen.fill(logits)
            sampler.apply(chosen)
            found.append(chosen.selected())
        assert found[0] == found[1]
    one_by_one.close()
    at_once.close()


@pytest.fixture
def raw(model: Model) -> Iterator[Callable[[list[int], SamplingParams, int, int], list[int]]]:
    """llama.cpp as a program would use it: decode, sample, decode; no batches, no calls."""
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.flash_attn_type = 256, 256, 256, 0
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model._model, params)

    def generate(prompt: list[int], sampling: SamplingParams, seed: int, n: int) -> list[int]:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        tokens: list[int] = []
        with closing(Peer(model, sampling, seed)) as peer:
            for token in prompt:
                lib.llama_sampler_accept(peer.chain, token)
            batch = prompt
            while len(tokens) < n:
                array = (lib.llama_token * len(batch))(*batch)
                assert lib.llama_decode(context, lib.llama_batch_get_one(array, len(batch))) == 0
                logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (model.n_vocab,))
                tokens.append(peer.sample(logits.copy()))
                batch = tokens[-1:]
                if model.is_eog(tokens[-1]):
                    break
        return tokens

    yield generate
    lib.llama_free(context)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 1.8])
def test_an_answer_of_the_engine_is_that_of_llama_cpp(
    drive: Callable[..., Driver], raw: Callable[..., list[int]], temperature: float
) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    for seed in (1, 42, 2**32 - 2):
        for grammar in ("", GRAMMAR):
            sampling = SamplingParams(temperature=temperature, repeat_penalty=1.1, grammar=grammar)
            prompt = some_prompt(seed % 7)
            expected = raw(prompt, sampling, seed, 40)
            for cuts in ([], [3, 11, 12, 1, 1, 6, 2]):
                chat = driver.chat(f"{seed} {grammar} {cuts}", sampling=sampling, seed=seed)
                assert driver.run(chat.answer(prompt, 40, cuts)) == expected


def test_logprobs_do_not_change_what_is_drawn(drive: Callable[..., Driver]) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=200)
    sampling = replace(SETTINGS["usual"], temperature=1.4)
    told = driver.run(driver.chat(sampling=sampling).call(some_prompt(2), n_predict=20, n_logprobs=5))
    plain = driver.run(driver.chat(sampling=sampling).call(some_prompt(2), n_predict=20))
    assert told.sampled == plain.sampled == [one.token for one in told.details]
    assert plain.details == []
    assert told.n_draws == plain.n_draws == 19  # the last token is not decoded: it will be drawn again
    for one in told.details:
        assert len(one.top) == 5
        assert one.logprob is not None
        assert one.logprob <= one.top[0][1] <= 0.0
        assert dict(one.top).get(one.token, one.logprob) == one.logprob
