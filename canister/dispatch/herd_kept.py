"""Kept answers, as the private door of a herd moves them: fetched, put, and forgotten before they are made again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from canister.dispatch.answer_making import stopped
from canister.state import answer_copies

if TYPE_CHECKING:
    from canister.runtime.canister import Canister


async def get(canister: Canister, caller: str, id: str) -> bytes | None:
    """A copy of the caller's answer, as it stands; None: there is none."""
    kept = await asyncio.to_thread(canister.answers.find, id)
    if kept is None or kept.asked.caller != caller:
        return None
    calls = await asyncio.to_thread(canister.answers.calls, id)
    return answer_copies.encode(kept, calls)


async def put(canister: Canister, copy: bytes) -> None:
    """Have this answer, as another worker has made it. Raises BadArgument."""
    kept, calls = answer_copies.decode(copy)
    await stopped(canister, kept.asked.id)
    await canister.answers.put(kept, calls, canister.settings.keep_answers_days * 86_400)


async def forget(canister: Canister, caller: str, id: str | None, key: str | None) -> None:
    """Make no more of the caller's answers of this id or key, and forget them."""
    for found in await asyncio.to_thread(canister.answers.ids, caller, id, key):
        await stopped(canister, found)
    await canister.answers.forget(caller, id, key)
