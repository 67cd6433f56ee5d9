"""What an engine reports of itself: how it decodes and why, and what it is doing. It names no caller, chat or file."""

from __future__ import annotations

from dataclasses import asdict

from canister.engine.devices import devices
from canister.engine.engine import EngineInfo, EngineStats
from canister.engine.load import library


def report(info: EngineInfo, stats: EngineStats) -> dict[str, object]:
    """Plain values for JSON. Row classes: numbers of rows whose decodes give the same bits."""
    policy, threads = info.policy, info.threads
    return {
        "model": info.description,
        "exact": {
            "is_exact": policy.is_exact,
            "why": policy.why,
            "flash_attention": policy.flash_attn,
            "row_classes": [list(members) for members in info.row_classes],
            "attention_classes": [list(members) for members in info.attention_classes],
            "max_rows": policy.max_rows,
            "prompt_block": policy.chunk.block,
            "repeats_cut": policy.repeats_cut,
            "dummy_rows": policy.needs_pairs,
        },
        "llama_cpp": {
            "llama_cpp_python": library.version(),
            "processor": library.processor(),
            "extra_buffers": info.restrictions.extra_buffers,
            "most_rows_at_once": info.restrictions.max_rows or None,
            "switched_off": list(info.restrictions.reasons),
            "advice": info.restrictions.advice or None,
        },
        "devices": _devices(info),
        "threads": {
            "count": threads.n,
            "why": threads.why,
            "tokens_per_second": {str(n): round(speed, 1) for n, speed in threads.speeds.items()},
        },
        "speculation": {
            "type": info.spec_type,
            "most_rows": info.n_verified,
            "draft_model": info.draft_model or None,
            "notes": [info.draft_note] if info.draft_note else [],
        },
        "memory": {
            "slots": info.n_slots,
            "context": info.n_ctx,
            "kv_bytes_per_token": info.kv_bytes_per_token,
            "kv_types": [info.type_k, info.type_v],
            "kv_layout": info.kv_kind,
            "notes": list(info.memory.notes),
        },
        "now": {
            "resident": stats.n_resident,
            "running": stats.n_running,
            "waiting": stats.n_waiting,
            "parked": stats.n_parked,
            "parked_bytes": stats.parked_bytes,
            "kv_tokens": sum(slot.n_tokens for slot in stats.slots),
            "slots": [{"state": slot.state, "tokens": slot.n_tokens} for slot in stats.slots],
        },
        "speed": {
            "prompt_tokens_per_second": round(stats.prefill_tps, 1),
            "answer_tokens_per_second": round(stats.decode_tps, 1),
            "longest_pause_ms": round(1000 * stats.pause_seconds),
        },
        "total": {
            "steps": stats.n_steps,
            "row_steps": stats.n_row_steps,
            "cancelled": stats.n_cancelled,
            "drafted_tokens": stats.n_drafted,
            "accepted_tokens": stats.n_accepted,
            "prompt_tokens": stats.n_prompt_tokens,
            "rows": stats.n_rows,
            "busy_seconds": round(stats.busy_seconds, 3),
            "reused_tokens": asdict(stats.sources),
        },
    }


def _devices(info: EngineInfo) -> dict[str, object]:
    """Where the model is computed, and what memory there is."""
    placed = info.placed
    n_layers = placed.params.n_gpu_layers
    return {
        "computing": list(placed.devices) or ["the processor"],
        "gpu_layers": "all" if n_layers < 0 else n_layers,
        "split_mode": placed.params.split_mode if placed.is_offloaded else None,
        "kv_rows": "beside their layers" if placed.offloads_kv else "in the memory of the machine",
        "memory": {
            device.name: {
                "description": device.description,
                "kind": device.kind,
                "free_bytes": device.free_bytes,
                "total_bytes": device.total_bytes,
            }
            for device in devices()
        },
        "notes": [placed.without_effect] if placed.without_effect else [],
    }
