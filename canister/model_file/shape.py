"""What the cost model needs of a model, read from its GGUF header: sizes of matrices, layers and heads.

Pure: a GgufFile in, a ModelShape out. Weights are never read. Every architecture has a shape. The costs of those in
FITTED were fitted; for the others the same terms are computed from their tensors, and `estimates` says what was
guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from canister.errors import BadRequest
from canister.model_file.gguf import GgufFile, TensorInfo, TensorType
from canister.model_file.kind import why_no_chat, why_not_run

FITTED = frozenset({"llama", "qwen2", "qwen3", "gemma3", "lfm2"})

_SLIDING_PERIOD = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "cohere2": 4,
    "exaone4": 4,
    "olmo2": 4,
    "gpt-oss": 2,
    "plamo3": 8,
    "lfm2": 0,
}
"""Every n-th layer of these architectures sees the whole context, the others the window; 0: all see the window.

Architectures that are not here ignore the window in their metadata, as llama.cpp does.
"""

_BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
_NOT_MULTIPLIED = ("norm.weight", "conv1d.weight", "shortconv.conv.weight")
_ATTENTION_MARKS = ("attn_k.weight", "attn_qkv.weight", "attn_kv_a_mqa.weight")


class ModelShapeError(BadRequest):
    """The file is no model that continues texts, or its header lacks what every such model has."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. Widths are elements. heads and kv_heads are 0 where there is no attention; window 0: no window."""

    heads: int
    kv_heads: int
    window: int
    feed_forward: int
    has_bias: bool
    has_head_norms: bool
    n_post_norms: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model as the cost model sees it.

    macs: multiply-accumulates per token by tensor type, head excluded; rows, input_lengths: sums over those matrices.
    head_type, vocabulary: of the output head, tied or not.
    weight_bytes: bytes of weights that a token touches; file_bytes: the whole file.
    estimates: what was guessed, as sentences; empty for the fitted architectures.
    """

    architecture: str
    layers: tuple[Layer, ...]
    width: int
    key_length: int
    value_length: int
    vocabulary: int
    n_ctx_train: int
    macs: tuple[tuple[TensorType, int], ...]
    rows: int
    input_lengths: int
    head_type: TensorType
    weight_bytes: int
    file_bytes: int
    estimates: tuple[str, ...]

    @property
    def attention_layers(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.heads)


def read_shape(file: GgufFile, *, may_embed: bool = False) -> ModelShape:
    """The shape of a model. Raises ModelShapeError when the file is no language model.

    may_embed: models that are run for embeddings are welcome too.
    """
    other_kind = why_not_run(file) if may_embed else why_no_chat(file)
    if other_kind is not None:
        raise ModelShapeError(other_kind)
    arch = file.architecture
    tensors = {tensor.name: tensor for tensor in file.tensors}
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelShapeError(f"The model ({arch or 'no architecture'}) has no token embedding: no language model.")
    width = embedding.shape[0]
    blocks = _blocks(tensors.values())
    n_layers = _positive(file, "block_count") or max(blocks, default=-1) + 1
    if not 0 < n_layers <= len(file.tensors):
        raise ModelShapeError(f"The model ({arch}) says that it has {n_layers} layers; its tensors deny it.")
    head = tensors.get("output.weight", embedding)
    if len(head.shape) != 2:
        raise ModelShapeError(f"The model ({arch}) has an output head of shape {head.shape}.")
    layers = tuple(_layer(file, blocks.get(index, {}), index) for index in range(n_layers))
    most_heads = max((layer.heads for layer in layers), default=0) or 1
    macs: Counter[TensorType] = Counter()
    rows = input_lengths = idle_bytes = 0
    for tensor in _multiplied(blocks):
        used, stored = _experts(file, tensor)
        macs[tensor.type] += tensor.n_elements * used // stored
        rows += tensor.n_elements // max(1, tensor.shape[0]) * used // stored
        input_lengths += tensor.shape[0] * used
        idle_bytes += tensor.n_bytes * (stored - used) // stored
    if head is not embedding:
        idle_bytes += embedding.n_bytes
    return ModelShape(
        architecture=arch,
        layers=layers,
        width=width,
        key_length=_positive(file, "attention.key_length") or width // most_heads,
        value_length=_positive(file, "attention.value_length") or width // most_heads,
        vocabulary=head.shape[1],
        n_ctx_train=_positive(file, "context_length"),
        macs=tuple(sorted(macs.items(), key=lambda pair: pair[0].id)),
        rows=rows,
        input_lengths=input_lengths,
        head_type=head.type,
        weight_bytes=file.size - idle_bytes,
        file_bytes=file.size,
        estimates=tuple(_estimates(file, blocks)),
    )


Blocks = dict[int, dict[str, TensorInfo]]


def _blocks(tensors: Iterable[TensorInfo]) -> Blocks:
    """The tensors of each layer, by the rest of their names."""
    blocks: Blocks = {}
    for tensor in tensors:
        match = _BLOCK.fullmatch(tensor.name)
        if match:
            blocks.setdefault(int(match[1]), {})[match[2]] = tensor
    return blocks


def _multiplied(blocks: Blocks) -> Iterable[TensorInfo]:
    """The matrices that every token is multiplied with."""
    for block in blocks.values():
        for name, tensor in block.items():
            if len(tensor.shape) > 1 and name.endswith(".weight") and not name.endswith(_NOT_MULTIPLIED):
                yield tensor


def _experts(file: GgufFile, tensor: TensorInfo) -> tuple[int, int]:
    """How many of the experts in this tensor a token uses, and how many there are; 1 of 1 without experts."""
    if len(tensor.shape) != 3 or "_exps." not in tensor.name:
        return 1, 1
    stored = max(1, tensor.shape[2])
    return min(_positive(file, "expert_used_count") or stored, stored), stored


def _layer(file: GgufFile, block: dict[str, TensorInfo], index: int) -> Layer:
    attends = any(name in block for name in _ATTENTION_MARKS)
    heads = _of_layer(file, "attention.head_count", index) if attends else 0
    kv_heads = _of_layer(file, "attention.head_count_kv", index, default=heads) if attends else 0
    if not heads or not kv_heads:
        heads = kv_heads = 0
    down = [tensor for name, tensor in block.items() if name.startswith("ffn_down") and len(tensor.shape) > 1]
    return Layer(
        heads=heads,
        kv_heads=kv_heads,
        window=_window(file, index) if heads else 0,
        feed_forward=sum(tensor.shape[0] * _experts(file, tensor)[0] for tensor in down),
        has_bias="attn_q.bias" in block,
        has_head_norms="attn_q_norm.weight" in block,
        n_post_norms=sum(name in block for name in ("post_attention_norm.weight", "post_ffw_norm.weight")),
    )


def _of_layer(file: GgufFile, key: str, index: int, default: int = 0) -> int:
    """A number that the model gives once or per layer."""
    name = f"{file.architecture}.{key}"
    each = file.integers(name)
    value = each[index] if index < len(each) else file.integer(name)
    return max(0, default if value is None else value)


def _positive(file: GgufFile, key: str) -> int:
    """A number of the model; 0 when it is missing or makes no sense."""
    return max(0, file.integer(f"{file.architecture}.{key}") or 0)


def _window(file: GgufFile, index: int) -> int:
    """Tokens that the layer sees; 0: all of them."""
    prefix = f"{file.architecture}.attention.sliding_window"
    window = _positive(file, "attention.sliding_window")
    each = file.integers(f"{prefix}_pattern")
    if each:
        return window if index < len(each) and each[index] else 0
    if file.architecture not in _SLIDING_PERIOD:
        return 0
    period = file.integer(f"{prefix}_pattern") or _SLIDING_PERIOD[file.architecture]
    return window if period <= 0 or index % period < period - 1 else 0


def _estimates(file: GgufFile, blocks: Blocks) -> Iterable[str]:
    if file.architecture not in FITTED:
        yield f"The architecture {file.architecture} was never fitted: its cost is estimated from its tensors."
    if any("_exps." in name for block in blocks.values() for name in block):
        yield "Mixtures of experts were never fitted: only the experts that a token uses are counted."
