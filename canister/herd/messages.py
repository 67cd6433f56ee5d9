"""Messages of the IC's door that run in this process, by their ids; the journal has those that have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from canister.errors import CanisterStopping
from canister.state.ingress_history import IngressMessage, KnownMessage, RecordedAnswer

Run = Callable[[Callable[[], None]], Coroutine[None, None, RecordedAnswer]]


@dataclass(frozen=True, slots=True)
class _Running:
    caller: str
    task: asyncio.Task[RecordedAnswer]
    accepted: asyncio.Event


class Messages:
    """Each runs once at a time; whoever sends it meanwhile waits for the same end."""

    def __init__(self) -> None:
        self._running: dict[bytes, _Running] = {}

    def find(self, id: bytes) -> KnownMessage | None:
        running = self._running.get(id)
        return None if running is None else KnownMessage(running.caller, "processing", None)

    async def accepted(self, id: bytes) -> None:
        """Wait until a message is kept, or has ended."""
        running = self._running.get(id)
        if running is None:
            return
        waits = asyncio.ensure_future(running.accepted.wait())
        await asyncio.wait({waits, running.task}, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()

    def submit(self, message: IngressMessage, run: Run) -> asyncio.Future[RecordedAnswer]:
        """A future answer. Never cancel it. run: gets what it calls once the journal has the message."""
        running = self._running.get(message.id)
        if running is not None:
            return running.task
        accepted = asyncio.Event()
        task = asyncio.create_task(self._run(message, run(accepted.set)), name=f"message {message.id.hex()}")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._running[message.id] = _Running(message.caller, task, accepted)
        return task

    async def close(self) -> None:
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, message: IngressMessage, work: Coroutine[None, None, RecordedAnswer]) -> RecordedAnswer:
        try:
            return await work
        except asyncio.CancelledError:
            raise CanisterStopping("the herd is stopping; the call goes on at its next start") from None
        finally:
            del self._running[message.id]
