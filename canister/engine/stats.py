"""Counters of an engine, as others see them."""

from __future__ import annotations

from dataclasses import dataclass

from canister.engine.kv.reuse import Sources


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine is doing, and has done since it was loaded.

    n_prompt_tokens: decoded in chunks, as prompt or again. sources: tokens that need not be decoded.
    waiting_of_callers: how many calls each caller has waiting, most first; no names. n_row_steps: steps with rows,
    n_rows in all. pause_*_seconds: between two tokens of a call, of the last steps, the longest in each.
    """

    n_slots: int
    n_resident: int
    n_running: int
    n_waiting: int
    waiting_of_callers: tuple[int, ...]
    n_steps: int
    n_row_steps: int
    n_prompt_tokens: int
    n_rows: int
    n_cancelled: int
    pause_max_seconds: float
    pause_mean_seconds: float
    busy_seconds: float
    sources: Sources
    n_parked: int
    parked_bytes: int
