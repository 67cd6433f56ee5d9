"""What a door may tell of a server without running a method."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from canister.api.records import ApiError
from canister.dispatch.execute import Reply, run
from canister.runtime import access
from canister.runtime.call import Call

if TYPE_CHECKING:
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host
    from canister.runtime.running_calls import RunningCall


def inspect(host: Host) -> list[dict[str, object]]:
    """What anybody may know of the canisters of a server."""
    return [canister.summary() for canister in host.canisters]


def observe(host: Host) -> dict[str, dict[str, float]]:
    """What the metrics say of each canister as it is now; no callers, no names of files."""
    return {canister.name: canister.observed() for canister in host.canisters}


async def inspect_engine(canister: Canister, caller: str) -> Reply:
    """How a canister's model is run, and what its calls may do, for whoever may look at what is not its own.

    Nothing is charged for it.
    """

    async def handle(call: Call) -> dict[str, object]:
        access.check(canister, caller, "admin_query")
        state, settings = call.state, canister.settings
        return {
            **canister.model.report(),
            "limits": {
                "max_tokens_update": state.max_tokens_update,
                "max_tokens_query": state.max_tokens_query,
                "instruction_limit": settings.instruction_limit,
                "query_instruction_limit": settings.query_instruction_limit,
            },
            "access": {"level": state.access_level, "who": access.LEVELS[state.access_level]},
            "uptime_seconds": canister.uptime_seconds,
        }

    return await run(canister, "engine", caller, handle, is_update=False, err=ApiError, is_limited=False)


async def inspect_calls(canister: Canister, caller: str) -> Reply:
    """What runs and what waits, and for whom: for the controllers. Nothing is charged for it."""

    async def handle(call: Call) -> dict[str, object]:
        access.check(canister, caller, "controller")
        running = [_described(other, time.time_ns()) for other in canister.running_calls if other is not call]
        waiting = canister.admission.waiting()
        return {"running": running, "waiting": [{"caller": who, "calls": n} for who, n in waiting.items()]}

    return await run(canister, "calls", caller, handle, is_update=False, err=ApiError, is_limited=False)


def _described(call: RunningCall, now_ns: int) -> dict[str, object]:
    """A call as it is now. Tokens are those that it has decoded so far; the rate is that of the whole call."""
    seconds = max(0.0, (now_ns - call.work.now_ns) / 1e9)
    told: dict[str, object] = {"caller": call.work.caller, "method": call.method, "seconds": round(seconds, 3)}
    if call.meter is None:
        return {**told, "phase": "at work"}
    work, n_wanted = call.meter.work, call.meter.n_wanted
    n_decoded = work.prompt + work.generated
    phase = "answer" if work.prompt == n_wanted else "prompt"
    return {
        **told,
        "phase": phase if n_decoded or not n_wanted else "waits for a slot",
        "prompt_tokens": work.prompt,
        "prompt_tokens_wanted": n_wanted,
        "generated_tokens": work.generated,
        "tokens_per_second": round(n_decoded / seconds, 1) if seconds else 0.0,
    }
