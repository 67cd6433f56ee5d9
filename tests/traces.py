"""What a call may leave behind, to be compared before and after one that must leave nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy import select

from canister.runtime.canister import Canister
from canister.store import tables

SECONDS = 240.0  # for what takes milliseconds, also on a machine that does much else

T = TypeVar("T")


def trace(canister: Canister) -> dict[str, Any]:
    """All files and rows of a canister, and what it remembers of them."""
    folder = canister.folder / "stable"
    # Rows of redo go when the disk has what they hold, not with a call.
    known = [table for table in tables.canister_metadata.sorted_tables if table is not tables.redo]
    with canister.database.read() as connection:
        rows = {table.name: connection.execute(select(table)).all() for table in known}
    return {
        "files": {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()},
        "staging": sorted((canister.folder / "staging").iterdir()),
        "rows": rows,
        "state": canister.state,
        "cycles": canister.ledger.cycles,
    }


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or the network brings about; TimeoutError if it does not."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0.001)


async def until_so(asked: Callable[[], Awaitable[T | None]]) -> T:
    """The first answer that is not None, to a question that is asked again and again; TimeoutError without one."""
    async with asyncio.timeout(SECONDS):
        while (found := await asked()) is None:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0.01)
        return found
