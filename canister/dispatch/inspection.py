"""What a door may tell of a server without running a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canister.access import LEVELS, admin_query
from canister.call import Call
from canister.dispatch.execution import Reply, run
from canister.records import ApiError

if TYPE_CHECKING:
    from canister.canister import Canister
    from canister.host import Host


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
        admin_query(call)
        state, settings = call.state, canister.settings
        return {
            **canister.model.report(),
            "limits": {
                "max_tokens_update": state.max_tokens_update,
                "max_tokens_query": state.max_tokens_query,
                "instruction_limit": settings.instruction_limit,
                "query_instruction_limit": settings.query_instruction_limit,
            },
            "access": {"level": state.access_level, "who": LEVELS[state.access_level]},
            "uptime_seconds": canister.uptime_seconds,
        }

    return await run(canister, "engine", caller, handle, is_update=False, err=ApiError, is_limited=False)
