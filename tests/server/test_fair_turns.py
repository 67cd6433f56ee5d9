"""Fair turns at the door: how many calls of a flooder are answered between a caller's call and its answer."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.server.served import Served, served
from tests.traces import until

pytestmark = pytest.mark.anyio

N_FLOOD = 200  # calls that the flooder has under way, all the time
N_OTHERS = 5
N_CALLS = 6  # of each of the others, one after the other
SLOTS = 4
N_TURNS = (
    2  # a call waits for a slot, then has one; meanwhile each slot ends a call of the flooder, or two that overlap
)
MAX_OVERTAKING = 2 * N_TURNS * SLOTS
# While the event loop is held up, by a slow disk for instance, nobody's next call comes in, and the engine goes on with
# what it has: the flood. That happens now and then; turns that are not fair would show in every try.
N_TRIES = 3


def arguments(cache: str) -> dict[str, list[str]]:
    """A call whose tokens are nearly all generated, so that all calls take as many steps."""
    flags = ["--prompt-cache-all", "--temp", "0.8", "--seed", "7", "--ignore-eos"]
    return {"args": ["--prompt-cache", cache, *flags, "-p", "Hello"]}


class Flood:
    """Of one caller; every call is in a chat of its own. n_answered: calls that were served, not those refused."""

    def __init__(self) -> None:
        self.n_answered = self.n_refused = 0

    async def keep_up(self, client: httpx.AsyncClient, number: int) -> None:
        while True:
            try:
                response = await client.post("/run_update", json=arguments(f"flood-{number}"))
            except httpx.TransportError:  # of two hundred clients on a busy machine: the flood goes on
                continue
            if response.status_code == 200:
                self.n_answered += 1
            else:
                assert response.status_code == 429
                self.n_refused += 1
                await asyncio.sleep(0.5)


async def overtaken(client: httpx.AsyncClient, flood: Flood) -> list[int]:
    """Of each call: how many of the flooder's were answered meanwhile."""
    counts = []
    for _ in range(N_CALLS):
        n_before = flood.n_answered
        response = await client.post("/run_update", json=arguments("own"))
        assert response.status_code == 200, response.text
        counts.append(flood.n_answered - n_before)
    return counts


async def clients(server: Served, stack: AsyncExitStack, name: str, n: int) -> list[httpx.AsyncClient]:
    """Clients of one caller; each has its own connection, so that none waits in the client for another."""
    made = [await stack.enter_async_context(server.client(name, verify=False))]
    for _ in range(n - 1):
        like = httpx.AsyncClient(base_url=server.url, headers=made[0].headers, timeout=60, verify=False)
        made.append(await stack.enter_async_context(like))
    return made


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"max_calls_per_caller": 256, "max_queue_per_caller": 0}, id="turns in the engine"),
        pytest.param(
            {"max_calls": SLOTS, "max_calls_per_caller": SLOTS, "max_queue_per_caller": 256}, id="at the door"
        ),
        pytest.param({}, id="as set by default"),
    ],
)
async def test_a_flood_overtakes_nobody_by_more_than_the_slots(tmp_path: Path, limits: dict[str, int]) -> None:
    async with served(tmp_path, with_model=True, slots=SLOTS, **limits) as server, AsyncExitStack() as stack:
        flood = Flood()
        of_flood = await clients(server, stack, "flood", N_FLOOD)
        others = [(await clients(server, stack, f"caller-{n}", 1))[0] for n in range(N_OTHERS)]
        flooding = [asyncio.create_task(flood.keep_up(client, n)) for n, client in enumerate(of_flood)]
        calls = server.host.default.admission
        try:
            await until(lambda: flood.n_answered > SLOTS and calls.n_running + calls.n_waiting + flood.n_refused >= 150)
            for _ in range(N_TRIES):
                counts = await asyncio.gather(*(overtaken(client, flood) for client in others))
                assert not any(task.done() for task in flooding)
                if max(map(max, counts)) <= MAX_OVERTAKING:
                    break
        finally:
            for task in flooding:
                task.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)
        most = max(max(of_caller) for of_caller in counts)
        assert most <= MAX_OVERTAKING, counts
        assert sum(map(sum, counts)) > 0, "the flood was not served at all"
