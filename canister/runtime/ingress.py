"""Update calls that come as IC messages: each runs once, however often it comes and whatever happens to the server.

    first time     run in a task of its own, which continues when the client goes away
    meanwhile      a message with the same id waits for that task
    afterwards     answered from the history, also after a restart, until the record is purged

`dispatch` commits the answer in the transaction of the call's effects. A call that a crash or the end of the server cut
short has neither effects nor an answer, and may come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from canister.errors import CanisterStopping
from canister.state.ingress_history import IngressHistory, IngressMessage, KnownMessage, RecordedAnswer

Run = Callable[[], Awaitable[RecordedAnswer]]


@dataclass(frozen=True, slots=True)
class _Running:
    caller: str
    task: asyncio.Task[RecordedAnswer]


class Ingress:
    """The messages of one canister that run or were answered a short time ago."""

    def __init__(self, history: IngressHistory) -> None:
        self.history = history
        self._running: dict[bytes, _Running] = {}

    def find(self, id: bytes) -> KnownMessage | None:
        """None for a message that never came, was purged, or was rolled back."""
        running = self._running.get(id)
        if running is not None:
            return KnownMessage(running.caller, "processing", None)
        return self.history.find(id)

    def submit(
        self, message: IngressMessage, begin: Callable[[], Run], *, anew: bool = False
    ) -> asyncio.Future[RecordedAnswer]:
        """A future answer to a message: if the message is new, that of `begin`. Never cancel it.

        begin: called at once. It raises if the message is refused, and nothing is then known of it. Its answer must be
        recorded before it returns. anew: also if the message was answered before. The future raises CanisterStopping
        when the message was not run, or was cut short.
        """
        known = self.find(message.id)
        if known is not None and known.answer is not None and not anew:
            answered: asyncio.Future[RecordedAnswer] = asyncio.get_running_loop().create_future()
            answered.set_result(known.answer)
            return answered
        running = self._running.get(message.id)
        if running is not None:
            return running.task
        task = asyncio.create_task(self._run(message, begin()), name=f"message {message.id.hex()}")
        # Read the exception even when nobody waits any more; it was logged where it happened.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._running[message.id] = _Running(message.caller, task)
        return task

    async def _run(self, message: IngressMessage, run: Run) -> RecordedAnswer:
        try:
            return await run()
        except asyncio.CancelledError:
            raise CanisterStopping("the server is stopping and has rolled this call back; call again") from None
        finally:
            del self._running[message.id]

    async def finished(self) -> None:
        """Wait until no message runs any more."""
        while self._running:
            tasks = [running.task for running in self._running.values()]
            await asyncio.gather(*tasks, return_exceptions=True)
