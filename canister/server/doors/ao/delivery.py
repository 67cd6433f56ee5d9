"""How both wires hand messages over: to a process that is there, or as a new process, and to the archive beside it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import suppress

from fastapi import Request

from canister.ao.encoding import is_id
from canister.ao.processes.messages import Done, Incoming, Place, Result
from canister.ao.signing.items import Item
from canister.ao.storage.archive import Archive
from canister.errors import BadRequest, NotFound
from canister.server.doors.ao.incoming import MAX_MESSAGE_BYTES, of_item
from canister.server.doors.ao.units import Units
from canister.server.requests import dispatcher, while_connected

WAIT_SECONDS = 25.0  # for a result; then the client asks again
LOOK_SECONDS = 1.0  # between two looks whether the server stops
NOBODY = "0" * 43  # who a dry run is from


class Delivery:
    """takes_owners: whether a dry run may say whom it is from."""

    def __init__(self, units: Units, archive: Archive, *, takes_owners: bool = False) -> None:
        self.units = units
        self._archive = archive
        self._takes_owners = takes_owners

    async def item(self, item: Item) -> Place:
        """A message or a process as an item, which gateways find from then on. Raises NotFound, BadRequest."""
        message = of_item(item)
        if message.tag("Type") != "Process":
            await self.units.info(_target(message))  # what nobody gets is not kept
        await self._archive.add_item(_once(item.to_bytes()), MAX_MESSAGE_BYTES)
        return await self.message(message)

    async def message(self, message: Incoming) -> Place:
        """Raises NotFound, BadRequest."""
        if message.tag("Type") == "Process":
            if message.target:
                raise BadRequest(f"a new process has no target, and this one says {message.target[:80]!r}")
            return await self.units.spawn(message)
        _target(message)
        return await self.units.send(message)

    async def result(self, request: Request, process: str, which: int | str) -> Done | None:
        """Of a message; None when there is none yet, so that the client asks again: one that waits holds up nobody who
        stops the server. Raises Cancelled, and as units do."""
        until = time.monotonic() + WAIT_SECONDS

        async def awaited() -> Done | None:
            while True:
                left = until - time.monotonic()
                done = await self.units.result(process, which, min(left, LOOK_SECONDS))
                if done is not None or left <= 0 or dispatcher(request).is_draining:
                    return done

        return await while_connected(request, awaited())

    async def dry_run(self, process: str, message: Incoming, owner: str | None) -> Result:
        """owner: who it says that it is from, which counts only where the operator allows it, and never for a process
        or the node."""
        await self.units.info(process)
        if not self._takes_owners or owner is None or not await self._is_a_person(owner):
            owner = NOBODY
        asked = Incoming(message.id, owner, process, message.data, message.tags, message.anchor)
        return await self.units.dry_run(process, asked)

    async def _is_a_person(self, owner: str) -> bool:
        if owner == self.units.node or not (is_id(owner) or owner.startswith("0x")):
            return False
        with suppress(NotFound):
            await self.units.info(owner)
            return False
        return True


def _target(message: Incoming) -> str:
    if not message.target:
        raise BadRequest("the message has no target; a new process has the tag Type=Process")
    return message.target


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
