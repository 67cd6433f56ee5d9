"""Pacing on a virtual clock: the share is kept and used up, shared fairly, and given back at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.runtime.stream_pacing import (
    ENOUGH_CORES,
    MAX_SECONDS_PER_BYTE,
    PIECE_BYTES,
    SHARE_OF_SPARE,
    Pacing,
    seconds_per_byte,
    unpaced,
)
from tests.virtual_loop import run

SHARE = 0.05
COST = 4e-9  # seconds per byte
TURN = PIECE_BYTES * COST / SHARE


class Machine:
    """What the pacing is told, and streams that send pieces for ever; n_pieces: of each stream."""

    def __init__(self, n_streams: int, *, spare: float = 0.0, share: float = SHARE, cost: float = COST) -> None:
        self.spare = spare
        self.pacing = Pacing(share, lambda: self.spare, cost)
        self.n_pieces = [0] * n_streams
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        self.tasks = [asyncio.create_task(self._send(number)) for number in range(len(self.n_pieces))]

    async def _send(self, number: int) -> None:
        while True:
            self.n_pieces[number] += 1
            await self.pacing.wait(PIECE_BYTES)

    async def beside_a_chat(self, seconds: float) -> None:
        self.begin()
        await asyncio.sleep(seconds)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def now() -> float:
    return asyncio.get_running_loop().time()


@settings(max_examples=40)
@given(n_streams=st.integers(1, 16), n_turns=st.integers(1, 60), share=st.floats(0.001, 0.5))
def test_many_streams_share_what_one_gets(n_streams: int, n_turns: int, share: float) -> None:
    machine = Machine(n_streams, share=share)
    run(machine.beside_a_chat((n_turns + 0.5) * PIECE_BYTES * COST / share))
    assert sum(machine.n_pieces) == n_streams + n_turns  # each begins with a piece; then no turn is wasted, none added
    assert max(machine.n_pieces) - min(machine.n_pieces) <= 1


@given(sizes=st.lists(st.integers(1, 4 * PIECE_BYTES), min_size=1, max_size=20))
def test_a_turn_is_as_long_as_its_bytes_are_worth(sizes: list[int]) -> None:
    async def play() -> list[float]:
        pacing = Machine(0).pacing

        async def one(size: int) -> float:
            await pacing.wait(size)
            return now()

        return await asyncio.gather(*map(one, sizes))

    expected = [sum(sizes[: i + 1]) * COST / SHARE for i in range(len(sizes))]
    assert run(play()) == pytest.approx(expected)


@pytest.mark.parametrize("spare", [math.inf, float(ENOUGH_CORES)])
def test_nothing_waits_while_nothing_decodes_or_cores_are_spare(spare: float) -> None:
    async def play() -> None:
        machine = Machine(0, spare=spare)
        for _ in range(1000):
            waiting = machine.pacing.wait(10**9)
            with pytest.raises(StopIteration):  # not even a round of the event loop
                waiting.send(None)
        assert machine.pacing.n_waits == 0

    run(play())


def test_a_share_of_one_turns_it_off() -> None:
    async def play() -> float:
        await unpaced().wait(10**12)
        await Machine(0, share=1.0).pacing.wait(10**12)
        return now()

    assert run(play()) == 0


@given(n_streams=st.integers(1, 16), ends_after=st.floats(0, 40))
def test_when_the_decoding_ends_everybody_goes_within_one_turn(n_streams: int, ends_after: float) -> None:
    async def play() -> float:
        machine = Machine(n_streams)
        waits = [asyncio.create_task(machine.pacing.wait(PIECE_BYTES)) for _ in range(n_streams)]
        await asyncio.sleep(ends_after * TURN)
        machine.spare = math.inf
        ended = now()
        await asyncio.gather(*waits)
        return now() - ended

    assert run(play()) <= TURN * 1.001


def test_decoding_begins_and_ends_while_streams_are_under_way() -> None:
    async def play() -> list[int]:
        machine = Machine(3)
        machine.begin()
        counts: list[int] = []
        for spare in (0.0, 1.0, 0.0):
            machine.spare = spare
            n_before = sum(machine.n_pieces)
            await asyncio.sleep(100 * TURN)
            counts.append(sum(machine.n_pieces) - n_before)
        for task in machine.tasks:
            task.cancel()
        return counts

    crowded, roomy, again = run(play())
    assert abs(crowded - 103) <= 3
    assert abs(again - 100) <= 3
    assert abs(roomy - 100 * SHARE_OF_SPARE / SHARE) <= 6


@given(cancelled=st.lists(st.booleans(), min_size=1, max_size=16), after=st.floats(0, 10))
def test_who_goes_away_wakes_at_once_and_keeps_nobody_waiting(cancelled: list[bool], after: float) -> None:
    async def play() -> None:
        machine = Machine(0)
        waits = [asyncio.create_task(machine.pacing.wait(PIECE_BYTES)) for _ in cancelled]
        await asyncio.sleep(after * TURN)
        going = [wait for wait, goes in zip(waits, cancelled, strict=True) if goes and not wait.done()]
        for wait in going:
            wait.cancel()
        begun = now()
        await asyncio.gather(*going, return_exceptions=True)
        assert now() == begun
        n_left = sum(not wait.done() for wait in waits)
        await asyncio.gather(*waits, return_exceptions=True)
        assert now() - begun <= (n_left + 1) * TURN * 1.001
        await machine.pacing.wait(PIECE_BYTES)  # nothing is left over that a later one would wait for
        assert now() - begun <= (n_left + 3) * TURN * 1.001

    run(play())


def test_there_is_a_floor_on_the_slowest_machine() -> None:
    machine = Machine(1, cost=1.0)
    run(machine.beside_a_chat(100.5 * PIECE_BYTES * MAX_SECONDS_PER_BYTE / SHARE))
    assert machine.n_pieces == [101]


@given(sizes=st.lists(st.integers(0, 3 * PIECE_BYTES), max_size=8), spare=st.sampled_from([0.0, 1.0, math.inf]))
def test_paced_blocks_are_the_same_bytes(sizes: list[int], spare: float) -> None:
    blocks = [bytes([i]) * size for i, size in enumerate(sizes)]

    async def sent() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    async def play() -> tuple[list[bytes], int]:
        pacing = Machine(0, spare=spare).pacing
        return [part async for part in pacing.paced(sent())], pacing.n_waits

    parts, n_waits = run(play())
    assert b"".join(parts) == b"".join(blocks)
    if spare == math.inf:
        assert (parts, n_waits) == (blocks, 0)
    else:
        assert all(len(part) <= PIECE_BYTES for part in parts)
        assert sum(sizes) // (2 * PIECE_BYTES) <= n_waits <= sum(sizes) // PIECE_BYTES


def test_the_cost_is_measured() -> None:
    assert 0 < seconds_per_byte() < 1e-5
