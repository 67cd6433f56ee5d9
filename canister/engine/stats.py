"""Counters of an engine, as others see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from canister.engine.kv.reuse import Sources
from canister.engine.kv.slots import Slot

Tier = Literal["slot", "memory", "file"]
"""Where a conversation's KV rows are: in the model's memory, parked beside it, or in its container alone."""


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot. resident: it holds a conversation that no call runs on. n_tokens: that it holds, or has so far."""

    state: Literal["running", "resident", "free"]
    n_tokens: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine is doing, and what it has done since it was loaded.

    n_prompt_tokens: decoded in chunks, for the first time or again. sources: tokens that need not be decoded.
    n_row_steps: steps with rows, n_rows in all. prefill_tps, decode_tps: tokens a second of one prompt, and of one
    answer, as measured of late; 0: not known yet. pause_seconds: that an answer may wait for the prompts of others; 0:
    as long as they take. n_drafted: tokens that were proposed and decoded, of which n_accepted were drawn.
    """

    n_slots: int
    n_resident: int
    n_running: int
    n_waiting: int
    n_steps: int
    n_row_steps: int
    n_prompt_tokens: int
    n_rows: int
    n_cancelled: int
    busy_seconds: float
    sources: Sources
    n_parked: int
    parked_bytes: int
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    pause_seconds: float = 0.0
    slots: tuple[SlotView, ...] = ()
    n_drafted: int = 0
    n_accepted: int = 0


def slot_views(slots: Iterable[Slot], positions: Mapping[int, int]) -> tuple[SlotView, ...]:
    """positions: of the calls that run, by their stream."""
    return tuple(
        SlotView("running", positions[slot.stream])
        if slot.stream in positions
        else SlotView("free" if slot.key is None else "resident", len(slot.tokens))
        for slot in slots
    )
