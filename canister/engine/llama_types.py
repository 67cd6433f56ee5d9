"""What a model and a context of llama.cpp are asked for, and how they fail; without llama.cpp itself."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Literal, NamedTuple

from canister.errors import BadRequest
from canister.flags.parse import PlacementParams, RopeParams
from canister.model_file.kind import Pooling

SCORED_ROWS = 16  # that may have logits in any decode, so that prompts can be scored by so many tokens

UNQUANTIZED = ("f32", "f16", "bf16")  # types of KV cells


class ModelError(BadRequest):
    """A model file that cannot be loaded, at all or with these settings. The message names the file."""


class EngineFault(RuntimeError):
    """llama.cpp refused what it should accept: a bug here or there."""


class DecodeAborted(Exception):
    """Somebody set the abort flag during a decode. Nothing of the batch counts."""


class FillIn(NamedTuple):
    """The tokens of vocabularies that were trained to fill in what stands between two texts; -1 for none."""

    prefix: int
    suffix: int
    middle: int
    repository: int
    file: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a model is computed. params: what reaches llama.cpp. devices: those that compute layers, by name.

    without_effect: which flags were given for nothing, and why, in a sentence; empty for none.
    """

    params: PlacementParams = field(default_factory=PlacementParams)
    devices: tuple[str, ...] = ()
    without_effect: str = ""

    @property
    def is_offloaded(self) -> bool:
        return self.params.n_gpu_layers != 0

    @property
    def offloads_kv(self) -> bool:
        """Do KV rows of layers that devices compute lie there?"""
        return self.is_offloaded and self.params.kv_offload

    @property
    def key(self) -> tuple[object, ...]:
        """What results of decodes depend on, beside the processor."""
        return (astuple(self.params), self.devices) if self.is_offloaded else ()


@dataclass(frozen=True, slots=True)
class ContextParams:
    """n_cells: KV cells of each stream. n_rows: the largest number of rows of one decode.

    most_at_once: rows that llama.cpp gets at a time, where it cannot take more; 0: all. n_outputs: rows of a decode
    that may have logits; 0: one of each stream; SCORED_ROWS may in any case. n_verified: tokens of one stream that may
    be decoded at once as if one by one; 0: none.
    offload_kv: KV rows lie where their layer is computed, else in the host's memory. is_offloaded: devices compute
    layers, so that a decode may go on when llama.cpp has returned.
    pooling: makes a context for embeddings, which has no logits, and whose streams share n_cells; "" for one that has.
    """

    n_streams: int
    n_cells: int
    n_rows: int
    n_threads: int
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool = False
    rope: RopeParams = field(default_factory=RopeParams)
    most_at_once: int = 0
    n_outputs: int = 0
    n_verified: int = 0
    pooling: Pooling | Literal[""] = ""
    offload_kv: bool = False
    is_offloaded: bool = False

    @property
    def max_outputs(self) -> int:
        n_scored = SCORED_ROWS if self.n_rows > SCORED_ROWS else 0
        return max(self.n_outputs or self.n_streams, self.n_verified, n_scored)
