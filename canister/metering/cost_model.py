"""What a call would cost in llama_cpp_canister on the IC: instructions, cycles, heap, seconds.

The formula and its coefficients are those of docs/cost-model.md, fitted on published main-network figures. Nothing is
timed. All arithmetic is exact: per-token terms are whole multiples of 1/SCALE instruction, and each part of a call is
rounded once, half up. The same input gives the same number on every machine.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal

from canister.errors import BadRequest
from canister.model_file.gguf import TYPE_BY_NAME, TensorType
from canister.model_file.shape import Layer, ModelShape

SCALE = 10**7

PageCosts = Literal["mainnet", "legacy"]
PAGE_COSTS: dict[PageCosts, tuple[int, int]] = {"mainnet": (5000, 10_000), "legacy": (0, 1000)}
"""Instructions for a page of 4096 bytes that is read for the first time, and for one that is written."""
_PAGE_BYTES = 4096


def _scaled(text: str) -> int:
    value = Fraction(text) * SCALE
    assert value.denominator == 1, f"{text} is not a multiple of 1/{SCALE}"
    return int(value)


# Instructions per multiply-accumulate. The first three were fitted, the others counted in the compiled code.
_PER_MAC = {
    "q8_0": _scaled("2.305"),
    "q4_K": _scaled("2.992"),
    "q6_K": _scaled("4.505"),
    "q4_0": _scaled("2.4375"),
    "q4_1": _scaled("3.0"),
    "q5_0": _scaled("3.4375"),
    "q5_1": _scaled("4.0625"),
    "q2_K": _scaled("3.27"),
    "q3_K": _scaled("5.98"),
    "q5_K": _scaled("3.75"),
    "f16": _scaled("19.4"),
    "f32": _scaled("4.375"),
    "tq2_0": _scaled("1.68"),
}
_PER_ROW = _scaled("163.9")
_PER_INPUT = _scaled("9.4375")  # quantizing the vector that a matrix is multiplied with
_PER_FEED_FORWARD = 82 * SCALE
_PER_LAYER_AND_DECODE = 360_000 * SCALE
_PER_SAMPLED_ENTRY = 97
_PER_PENALIZED_ENTRY = 122
_BASE = 43_400_000
_LOAD_PER_BYTE = _scaled("14.8")
_SAVE_PER_BYTE = _scaled("71.6")

_ATTENTION = Fraction("1.026")
_ATTENTION_STEP = 256  # tokens

# Of the KV cache, by type: dot product with a key, adding a value up, storing one; per element.
_KV_COSTS = {
    "q8_0": ("2.281", "9.906", "9.4375"),
    "f16": ("19.375", "18.625", "18.25"),
    "f32": ("4.375", "4.4375", "4"),
}
# Never measured: the types between q8_0 and f16 in bits would lie between; bf16 has the bits of f16, and the smaller
# ones are taken as q8_0, whose packed arithmetic they share.
_KV_LIKE = {"bf16": "f16", "q4_0": "q8_0", "q4_1": "q8_0", "iq4_nl": "q8_0", "q5_0": "q8_0", "q5_1": "q8_0"}


@dataclass(frozen=True, slots=True)
class CostContext:
    """The context that load_model made; sizes in tokens."""

    n_ctx: int
    n_batch: int = 2048
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    swa_full: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What one run_update or run_query does, in tokens.

    loaded: read from the prompt cache, 0 when none was read. reused: those of them that are kept; the first new token
    comes next. prompt: prompt tokens decoded, in chunks of the context's n_batch. generated: tokens decoded one by one.
    sampled: tokens sampled. saves: how often the prompt cache is written.
    """

    loaded: int = 0
    reused: int = 0
    prompt: int = 0
    generated: int = 0
    sampled: int = 0
    saves: int = 0
    penalized: bool = False

    @property
    def end(self) -> int:
        """Tokens in the context when the call ends."""
        return self.reused + self.prompt + self.generated


@dataclass(frozen=True, slots=True)
class CallCost:
    """Instructions of one call by part; `total` is their sum."""

    clear: int  # every call zeroes the whole KV cache
    session: int  # reading the prompt cache
    pagein: int  # touching the weights for the first time
    prompt: int  # decoding prompt tokens
    generate: int  # decoding generated tokens
    sampling: int
    save: int  # writing the prompt cache
    base: int

    @property
    def total(self) -> int:
        return self.fixed + self.prompt + self.generate + self.sampling + self.save

    @property
    def fixed(self) -> int:
        """Instructions spent before the first token."""
        return self.clear + self.session + self.pagein + self.base

    def parts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _PARTS}


_PARTS = tuple(part.name for part in fields(CallCost))


class CostModel:
    """The formula for one model in one context. Everything that does not depend on the call is computed once.

    kv_bytes, kv_bytes_per_token: the KV cache. clear, pagein, base: parts of every call. matrices: instructions for
    multiplying one token with all weight matrices. estimates: what was guessed, as sentences.
    """

    def __init__(self, shape: ModelShape, context: CostContext, pages: PageCosts = "mainnet") -> None:
        self.shape = shape
        self.context = context
        self.estimates = list(shape.estimates)
        read, write = PAGE_COSTS[pages]
        layers = shape.attention_layers
        keys = sum(layer.kv_heads for layer in layers) * shape.key_length
        values = sum(layer.kv_heads for layer in layers) * shape.value_length
        type_k, type_v = _kv_type(context.type_k), _kv_type(context.type_v)
        self.kv_bytes_per_token = sum(_kv_bytes(shape, layer, type_k, type_v) for layer in layers)
        self.kv_bytes = sum(_kv_bytes(shape, layer, type_k, type_v) * _cells(layer, context) for layer in layers)
        self.clear = rounded(self.kv_bytes * (_PAGE_BYTES + write), _PAGE_BYTES)
        self.pagein = rounded(shape.weight_bytes * read, _PAGE_BYTES)
        self.base = _BASE
        k_dot, _, k_set = self._kv_costs(context.type_k)
        _, v_add, v_set = self._kv_costs(context.type_v)
        product = _ATTENTION * (k_dot * shape.key_length + v_add * shape.value_length)
        self._per_key = int((472 + product) * SCALE)
        self._heads = sum(layer.heads for layer in layers)
        windows: Counter[int] = Counter()
        for layer in layers:
            windows[layer.window] += layer.heads
        self._heads_by_window = tuple(windows.items())
        self._per_head = (741 + 80 * shape.value_length) * SCALE
        matrices = sum(self._per_mac(type_) * n for type_, n in shape.macs)
        matrices += _PER_ROW * shape.rows + _PER_INPUT * shape.input_lengths
        head = self._per_mac(shape.head_type) * shape.width * shape.vocabulary
        head += _PER_ROW * shape.vocabulary + _PER_INPUT * shape.width
        self.matrices = rounded(matrices + head, SCALE)
        storing = int((k_set * keys + v_set * values) * SCALE)
        self._per_uncached_token = matrices + _element_wise(shape)
        self._per_token = self._per_uncached_token + storing
        self._per_headless_decode = _PER_LAYER_AND_DECODE * len(shape.layers)
        self._per_decode = head + self._per_headless_decode

    def decode(self, position: int, n_tokens: int) -> int:
        """Decoding n_tokens as one batch, the first at `position`, in 1/SCALE instructions."""
        if n_tokens == 0:
            return 0
        end = position + n_tokens
        keys = 0
        for window, heads in self._heads_by_window:
            keys += heads * (_sum_to(end, window) - _sum_to(position, window))
        steps = 18 * _ATTENTION_STEP * SCALE * (_sum_of_steps(end) - _sum_of_steps(position))
        attention = keys * self._per_key + self._heads * (n_tokens * self._per_head + steps)
        return n_tokens * self._per_token + self._per_decode + attention

    def embed(self, n_tokens: int, *, both_ways: bool) -> int:
        """Instructions for the vector of a text of so many tokens, without what every call takes.

        No head is computed. both_ways: each token sees all others, and there is no KV cache; else the text is decoded
        as a prompt.
        """
        if not both_ways:
            n_batch = self.context.n_batch
            starts = range(0, n_tokens, n_batch)
            decodes = (self.decode(at, min(n_batch, n_tokens - at)) for at in starts)
            return rounded(sum(decodes) - len(starts) * (self._per_decode - self._per_headless_decode), SCALE)
        seen = sum(heads * min(n_tokens, window or n_tokens) for window, heads in self._heads_by_window)
        steps = 18 * _ATTENTION_STEP * SCALE * -(-n_tokens // _ATTENTION_STEP)
        attention = n_tokens * (seen * self._per_key + self._heads * (self._per_head + steps))
        return rounded(n_tokens * self._per_uncached_token + attention + self._per_headless_decode, SCALE)

    def embed_call(self, *, both_ways: bool) -> int:
        """Instructions that every call for embeddings takes."""
        return self.pagein + self.base + (0 if both_ways else self.clear)

    def sample(self, *, penalized: bool) -> int:
        """Instructions for sampling one token."""
        return (_PER_SAMPLED_ENTRY + _PER_PENALIZED_ENTRY * penalized) * self.shape.vocabulary

    def session(self, loaded: int) -> int:
        """Instructions for reading a prompt cache of so many tokens; 0 tokens: none is read."""
        if not loaded:
            return 0
        return self.kv_bytes + rounded(_LOAD_PER_BYTE * self.kv_bytes_per_token * loaded, SCALE)

    def save(self, saves: int, end: int) -> int:
        """Instructions for writing the prompt cache `saves` times at a length of `end` tokens."""
        return rounded(_SAVE_PER_BYTE * self.kv_bytes_per_token * saves * end, SCALE)

    def cost(self, work: Work) -> CallCost:
        """The closed formula for a whole call."""
        n_batch = self.context.n_batch
        start, end = work.reused, work.reused + work.prompt
        prompt = sum(self.decode(at, min(n_batch, end - at)) for at in range(start, end, n_batch))
        generated = self.decode(end, work.generated) + max(0, work.generated - 1) * self._per_decode
        return CallCost(
            clear=self.clear,
            session=self.session(work.loaded),
            pagein=self.pagein,
            prompt=rounded(prompt, SCALE),
            generate=rounded(generated, SCALE),
            sampling=work.sampled * self.sample(penalized=work.penalized),
            save=self.save(work.saves, work.end),
            base=self.base,
        )

    @property
    def heap_bytes(self) -> int:
        """The wasm heap after load_model."""
        return self.shape.file_bytes + self.kv_bytes + self.context.n_ubatch * self.shape.vocabulary * 4 + 82_000_000

    def _per_mac(self, type_: TensorType) -> int:
        known = _PER_MAC.get(type_.name)
        if known is None:
            like = min(_PER_MAC, key=lambda name: _distance(TYPE_BY_NAME[name], type_))
            self._note(f"The weight type {type_.name} was never counted: it is taken as {like}.")
            known = _PER_MAC[like]
        return known

    def _kv_costs(self, name: str) -> tuple[Fraction, Fraction, Fraction]:
        like = _KV_LIKE.get(name, name)
        if like != name:
            self._note(f"The KV type {name} was never counted: it is taken as {like}.")
        dot, add, store = _KV_COSTS[like]
        return Fraction(dot), Fraction(add), Fraction(store)

    def _note(self, text: str) -> None:
        if text not in self.estimates:
            self.estimates.append(text)


def upload_cost(n_bytes: int) -> int:
    """Instructions of a file_upload_chunk of so many bytes."""
    return 6_200_000 + 2400 * n_bytes


def load_cost(file_bytes: int) -> int:
    """Instructions of load_model."""
    return 10 * file_bytes


def other_cost(n_bytes: int) -> int:
    """Instructions of any other method, by the bytes that it handles. Rough, never fitted."""
    return 1_000_000 + 100 * n_bytes


def rounded(value: int, unit: int) -> int:
    """value / unit to the nearest whole number, half up."""
    return (2 * value + unit) // (2 * unit)


def _distance(known: TensorType, wanted: TensorType) -> tuple[float, int]:
    """For sorting: the nearest in bits, and of two equally near the dearer one."""
    return abs(known.bits_per_element - wanted.bits_per_element), -_PER_MAC[known.name]


def _kv_type(name: str) -> TensorType:
    if name not in _KV_COSTS and name not in _KV_LIKE:
        raise BadRequest(f"{name!r} is no type of a KV cache: {', '.join((*_KV_COSTS, *_KV_LIKE))}.")
    return TYPE_BY_NAME[name]


def _kv_bytes(shape: ModelShape, layer: Layer, type_k: TensorType, type_v: TensorType) -> int:
    """Bytes of one token's keys and values in one layer."""
    keys = -(-layer.kv_heads * shape.key_length * type_k.block_bytes // type_k.block_elements)
    return keys - (-layer.kv_heads * shape.value_length * type_v.block_bytes // type_v.block_elements)


def _cells(layer: Layer, context: CostContext) -> int:
    """Tokens of KV cache that the layer has."""
    if not layer.window or context.swa_full:
        return context.n_ctx
    return min(context.n_ctx, -(-(layer.window + context.n_ubatch) // 256) * 256)


def _element_wise(shape: ModelShape) -> int:
    """Norms, residuals, activations and positions of one token, in 1/SCALE instructions."""
    d, n_layers = shape.width, len(shape.layers)
    total = n_layers * (2 * (779 + Fraction("20.7") * d) + 2 * (841 + 22 * d) + 2 * (847 + 22 * d)) * SCALE
    for layer in shape.layers:
        total += _PER_FEED_FORWARD * layer.feed_forward
        total += layer.n_post_norms * (1620 + Fraction("42.7") * d) * SCALE
        q, k = layer.heads * shape.key_length, layer.kv_heads * shape.key_length
        if not layer.heads:
            total += 390 * d * SCALE
            continue
        total += (40 * (q + k) + 1136) * SCALE
        if layer.has_bias:
            total += (2541 + 22 * (q + 2 * k)) * SCALE
        if layer.has_head_norms:
            total += (3240 + Fraction("42.7") * (q + k)) * SCALE
    return int(total)


def _sum_to(n: int, window: int = 0) -> int:
    """min(1, window) + … + min(n, window); without a window 1 + … + n."""
    if not window or n <= window:
        return n * (n + 1) // 2
    return window * (window + 1) // 2 + (n - window) * window


def _sum_of_steps(n: int) -> int:
    """⌈1/256⌉ + … + ⌈n/256⌉."""
    whole, rest = divmod(n, _ATTENTION_STEP)
    return _ATTENTION_STEP * whole * (whole + 1) // 2 + rest * (whole + 1)
