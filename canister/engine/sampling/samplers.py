"""llama.cpp's samplers: one, a chain of them, and the candidates that they choose from."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Collection, Sequence
from typing import Any

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from canister.engine.llama import Logits, Model
from canister.engine.llama_log import complaint
from canister.engine.llama_types import EngineFault
from canister.engine.structs import address_of, set_fields
from canister.errors import BadRequest


class Candidates:
    """The tokens still to choose from, as samplers see them."""

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self._data = np.zeros(n_vocab, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._pointer: Any = ctypes.cast(self._data.ctypes.data, lib.llama_token_data_p)
        self._array = lib.llama_token_data_array()
        self._ref = ctypes.byref(self._array)

    def _reset(self, size: int) -> None:
        self._array.data = self._pointer  # samplers may aim it elsewhere
        self._array.size = size
        self._array.selected, self._array.sorted = -1, False

    def fill(self, logits: Logits) -> None:
        self._data["id"], self._data["logit"] = self._ids, logits
        self._reset(len(self._ids))

    def keep(self, allowed: NDArray[np.bool_]) -> None:
        """After `fill`: only tokens that are allowed, of the whole vocabulary, can come."""
        self._data["logit"][~allowed] = -np.inf

    def drop(self, tokens: Collection[int]) -> None:
        """After `fill`: these tokens cannot come."""
        self._data["logit"][list(tokens)] = -np.inf

    def part(self, at: int, n: int) -> Any:
        """A reference to n of them, for a sampler that looks at each by itself."""
        part: Any = lib.llama_token_data_array()
        part.data = ctypes.cast(self._data.ctypes.data + at * self._data.itemsize, lib.llama_token_data_p)
        part.size, part.selected, part.sorted = min(n, len(self._data) - at), -1, False
        return ctypes.byref(part)

    def only(self, token: int) -> None:
        self._data[0] = (token, 1.0, 0.0)
        self._reset(1)

    def best(self) -> tuple[int, float]:
        """Token and logit of the highest logit, the first of equals."""
        left = (lib.llama_token_data * self._array.size).from_address(address_of(self._array.data))
        items = np.frombuffer(memoryview(left), self._data.dtype)
        at = int(items["logit"].argmax())
        return int(items["id"][at]), float(items["logit"][at])

    def left(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The tokens that can come, and their logits. Copies."""
        array = (lib.llama_token_data * self._array.size).from_address(address_of(self._array.data))
        items = np.frombuffer(memoryview(array), self._data.dtype)
        items = items[items["logit"] > -np.inf]
        return items["id"].copy(), items["logit"].copy()

    def selected(self) -> tuple[int, float]:
        """Token and logit that the last sampler selected."""
        if not 0 <= self._array.selected < self._array.size:
            raise EngineFault("no sampler selected a token")
        item = self._array.data[self._array.selected]
        return int(item.id), float(item.logit)


_FEW = 16  # applications that are cheaper one by one
_FIRST_PART = 32  # candidates; the next part is twice as large while one takes less than these seconds
_PART_SECONDS = 0.005


class Sampler:
    """One of llama.cpp's samplers, or a chain of them. It may be closed; else it ends with its object."""

    def __init__(self, pointer: object) -> None:
        self._pointer: object | None = pointer

    def __del__(self) -> None:
        self.close()

    @classmethod
    def make(cls, kind: str, *args: float) -> Sampler:
        """A sampler by the name of llama.cpp's constructor, for those that take numbers only."""
        return cls(getattr(lib, f"llama_sampler_init_{kind}")(*args))

    @classmethod
    def chain(cls, members: Sequence[Sampler]) -> Sampler:
        """The members become the chain's, and are freed with it."""
        chain = cls(_chain_of([member._pointer for member in members]))
        for member in members:
            member._pointer = None
        return chain

    @classmethod
    def dist(cls, seed: int, n_draws: int) -> Sampler:
        """Draws a token by the probabilities, with llama.cpp's own random sequence, after n_draws draws."""
        dist = cls.make("dist", seed)
        dist._skip(n_draws)
        return dist

    def _skip(self, n: int) -> None:
        """Apply it n times where there is nothing to choose.

        It uses chains that each hold the former chain twice, and in the end the sampler itself, so 2^k draws are one
        call.
        """
        nothing = Candidates(1)
        nothing.only(0)
        times, chains = self._pointer, list[object]()
        while n > _FEW:
            if n & 1:
                lib.llama_sampler_apply(times, nothing._ref)
            n >>= 1
            times = _chain_of([times, times])
            chains.append(times)
        for _ in range(n):
            lib.llama_sampler_apply(times, nothing._ref)
        for chain in chains:  # what it holds is not its own
            for _ in range(2):
                lib.llama_sampler_chain_remove(chain, 0)
            lib.llama_sampler_free(chain)

    @classmethod
    def logit_bias(cls, model: Model, biases: Sequence[tuple[int, float]]) -> Sampler:
        entries = (lib.llama_logit_bias * len(biases))(*(lib.llama_logit_bias(*bias) for bias in biases))
        return cls(lib.llama_sampler_init_logit_bias(model.n_vocab, len(biases), entries))

    @classmethod
    def dry(
        cls, model: Model, multiplier: float, base: float, allowed: int, last_n: int, breakers: Sequence[str]
    ) -> Sampler:
        words = (ctypes.c_char_p * len(breakers))(*(word.encode("utf-8", "replace") for word in breakers))
        return cls(lib.llama_sampler_init_dry(model.vocab, multiplier, base, allowed, last_n, words, len(breakers)))

    @classmethod
    def infill(cls, model: Model) -> Sampler:
        return cls(lib.llama_sampler_init_infill(model.vocab))

    @classmethod
    def grammar(cls, model: Model, text: str) -> Sampler:
        """A GBNF grammar. BadRequest when it does not parse. The parser is recursive, and a full stack ends the
        process.
        """
        complaint()
        pointer = lib.llama_sampler_init_grammar(model.vocab, text.encode("utf-8", "replace"), b"root")
        if not pointer:
            told = complaint() or "it does not parse"
            raise BadRequest(
                f"The grammar cannot be used: {told}; it takes a rule root, and none undefined or beginning with itself"
            )
        return cls(pointer)

    def clone(self) -> Sampler:
        """Another in the same state."""
        return Sampler(lib.llama_sampler_clone(self._pointer))

    def apply(self, candidates: Candidates) -> None:
        lib.llama_sampler_apply(self._pointer, candidates._ref)

    def apply_within(self, candidates: Candidates, seconds: float) -> bool:
        """Apply a sampler that looks at each candidate by itself to all of them, some at a time.

        seconds: of the thread's CPU time. False if it takes more, and was left.
        """
        begun = now = time.thread_time()
        at, n = 0, _FIRST_PART
        while at < candidates.n_vocab:
            lib.llama_sampler_apply(self._pointer, candidates.part(at, n))
            before, now = now, time.thread_time()
            if now - begun > seconds:
                return False
            at += n
            if now - before < _PART_SECONDS:
                n *= 2
        return True

    def accept(self, token: int) -> None:
        lib.llama_sampler_accept(self._pointer, token)

    def close(self) -> None:
        if self._pointer is not None:
            lib.llama_sampler_free(self._pointer)
            self._pointer = None


def _chain_of(pointers: Sequence[object]) -> object:
    params = lib.llama_sampler_chain_default_params()
    set_fields(params, no_perf=True)
    chain: object = lib.llama_sampler_chain_init(params)
    for pointer in pointers:
        lib.llama_sampler_chain_add(chain, pointer)
    return chain
