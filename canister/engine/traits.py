"""What was found out about a model's memory and kernels when it was loaded."""

from __future__ import annotations

from dataclasses import dataclass

from canister.engine.batch_invariance import PLAIN, ChunkRule
from canister.engine.kv.rows import Layout


@dataclass(frozen=True, slots=True)
class Traits:
    """What was found out about a model's memory and kernels.

    layout: of KV rows; None for memories whose states are not cut into rows.
    rolls_back: the tail of a stream can be removed. needs_pairs: one row alone differs from the same row beside others.
    chunk: how decodes of prompt tokens are filled up. joins_prompts: those of several streams may share a decode.
    fills_gaps: a decode of rows may have dummy rows between them.
    all_outputs: logits are right only where every row of a decode asks for them.
    keeps_states: a state that was taken out of a stream may be put back.
    reads_in_place: rows are read where they lie, as far as that can be.
    n_verified: tokens of a stream that may be decoded at once as if one by one; 0: none.
    """

    layout: Layout | None
    rolls_back: bool
    needs_pairs: bool
    kv_bytes_per_token: int
    chunk: ChunkRule = PLAIN
    joins_prompts: bool = False
    fills_gaps: bool = False
    all_outputs: bool = False
    keeps_states: bool = True
    reads_in_place: bool = True
    n_verified: int = 0
