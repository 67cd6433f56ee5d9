"""Exact mode: which decodes give a chat the same bits, whoever runs beside it and however its prompt is cut.

Pure rules on what `load/calibration.py` measured. A *row* is a token in a decode. Two things pick the kernels: how many
rows a decode has in all (for the weights), and whether a stream has one row or several (for attention).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from canister.errors import Conflict

ExactMode = Literal["auto", "on", "off"]

MAX_SLOTS = 8  # when they are chosen by memory
ENOUGH_ROWS = 6  # a cap of so many rows or more costs little; the server then chooses fewer slots

RowClasses = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ChunkRule:
    """How a prompt chunk goes into a decode: filled up with dummy rows to a multiple of `block`, at least two.

    block 0: the chunk is not filled up. most: the largest number of rows; None: any.
    """

    block: int
    most: int | None = None

    def rows(self, n: int) -> int:
        """Rows of a chunk of n tokens."""
        return n if self.block == 0 else max(2, -(-n // self.block) * self.block)


PLAIN = ChunkRule(0)
TOKEN_BY_TOKEN = ChunkRule(0, 1)
# From the cheapest on. Repacked K-quants compute blocks of four rows, and the rest in another way.
CHUNK_RULES = (ChunkRule(1), ChunkRule(4), ChunkRule(8), ChunkRule(16), ChunkRule(1, 3), ChunkRule(1, 2))


@dataclass(frozen=True, slots=True)
class Kernels:
    """What was measured with flash attention off.

    row_classes: numbers of rows, of different streams, that give the same bits. chunk: a rule under which prompts are
    the same however they are cut; None: no rule of CHUNK_RULES does that. attention: whether one token of a stream
    gives the same bits as several. rolls_back: the tail of a stream can be removed. Dummy rows need that, so without it
    PLAIN is the only rule and row_classes is empty. side_by_side: prompts of several streams that share a decode, cut
    by that rule, are the same as alone. n_verified: so many tokens of one stream, and fewer, give the same bits at once
    as one by one; 0: none do.
    """

    row_classes: RowClasses
    chunk: ChunkRule | None
    attention: RowClasses
    rolls_back: bool
    side_by_side: bool = False
    n_verified: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """What a context is made with and what its decodes may be, and why.

    max_rows: of one decode of generated tokens; None: any. needs_pairs: no row goes alone. max_slots: None: any.
    repeats_cut: another cut of a prompt gives other bits, so whoever decodes it again must cut it as before.
    """

    is_exact: bool
    why: str
    flash_attn: bool
    max_rows: int | None = None
    needs_pairs: bool = False
    chunk: ChunkRule = PLAIN
    max_slots: int | None = None
    repeats_cut: bool = False


def rows_of_one_class(classes: RowClasses) -> tuple[int | None, bool]:
    """The largest number of rows of one decode, None for any, and whether a lone row needs a neighbour.

    Dummy rows beside lone rows count as rows, so with them a decode may have twice as many.
    """
    class_of = {n: members for members in classes for n in members}
    counts = sorted(class_of)
    if len(counts) < 2:
        return 1, False
    first, second = counts[:2]
    needs_pairs = class_of[first] != class_of[second]
    most: int | None = second
    for n in counts[2:]:
        if class_of[n] != class_of[second]:
            break
        most = n
    else:
        most = None
    if needs_pairs and most is not None:
        return (most // 2, True) if most >= 4 else (1, False)
    return most, needs_pairs


def measures(mode: ExactMode, flash_attn: str, v_is_quantized: bool) -> bool:
    """Whether kernels must be measured before a decision. Conflict for settings that exclude each other."""
    if mode == "on" and flash_attn == "on":
        raise Conflict(
            "exact mode is on (setting `exact`), and --flash-attn on was asked for: flash attention changes answers "
            "with the batch; leave out one of the two"
        )
    if mode == "on" and v_is_quantized:
        raise Conflict(
            "exact mode is on (setting `exact`), but a quantized --cache-type-v needs flash attention, which changes "
            "answers with the batch; use f16, bf16 or f32 for V, or set exact to auto"
        )
    return mode != "off" and flash_attn != "on" and not v_is_quantized


def decide(mode: ExactMode, flash_attn: str, v_is_quantized: bool, n_slots: int, kernels: Kernels | None) -> Policy:
    """The policy for a model. n_slots: as asked, 0 to choose. kernels: what was measured, if `measures` asks for it.

    Conflict when exact mode is on and this model cannot have it here.
    """
    if kernels is None:
        flash = v_is_quantized or flash_attn != "off"
        if mode == "off":
            return Policy(False, "off: set so", flash, repeats_cut=True)
        why = "a quantized V cache needs flash attention" if v_is_quantized else "--flash-attn on was asked for"
        return Policy(False, f"{mode}: {why}", flash, repeats_cut=True)
    fault = _fault(kernels)
    if fault is not None:
        if mode == "on":
            raise Conflict(f"exact mode is on (setting `exact`), but {fault}; set exact to auto")
        return Policy(False, f"auto: {fault}", False, repeats_cut=kernels.chunk is None)
    assert kernels.chunk is not None
    cap, needs_pairs = rows_of_one_class(kernels.row_classes)
    if mode == "on":
        binds = cap is not None and not 0 < n_slots <= cap
        why = f"on: at most {cap} rows a decode are of one class" if binds else "on: every number of rows is the same"
        return Policy(True, why, False, cap if binds else None, needs_pairs, kernels.chunk)
    if kernels.chunk.most is not None:
        why = f"auto: prompts would go in chunks of {kernels.chunk.most} tokens"
        return Policy(False, why, False, repeats_cut=True)
    if cap is None or 0 < n_slots <= cap:
        return Policy(True, "auto: every number of rows is the same", False, None, needs_pairs, kernels.chunk)
    if n_slots == 0 and cap >= ENOUGH_ROWS:
        why = f"auto: up to {cap} rows a decode are the same"
        return Policy(True, why, False, None, needs_pairs, kernels.chunk, max_slots=cap)
    why = f"auto: only decodes of at most {cap} rows would be of one class; prompts are the same however they are cut"
    return Policy(False, why, False, chunk=kernels.chunk)


def joins_prompts(policy: Policy, kernels: Kernels | None) -> bool:
    """May prompts of several chats share a decode?"""
    if kernels is None or policy.repeats_cut or policy.chunk != kernels.chunk or policy.chunk.most is not None:
        return False
    return kernels.side_by_side


def _fault(kernels: Kernels) -> str | None:
    if not kernels.rolls_back:
        return "this model's memory cannot take back a token, so rows cannot be made the same"
    if kernels.chunk is None:
        return "no way of cutting prompts gives the same bits on this processor"
    return None
