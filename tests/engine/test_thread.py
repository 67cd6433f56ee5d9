"""One thread for several engines: turns, faults, ends. Workers here are counters; engines at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.engine.engine import Engine, LoadParams
from canister.engine.llama import Model
from canister.engine.llama_types import EngineFault
from canister.engine.load.loader import load_models
from canister.engine.thread import DecodeThread
from tests.engine.driver import NOTHING, Chat, Driver
from tests.engine.test_batch_invariance import some_prompt
from tests.harness import settle

Drive = Callable[..., Driver]


class Worker:
    """Has n turns of work; notes each in `log`."""

    mapped_bytes = 5
    n_threads = 2

    def __init__(self, name: int, n: int, log: list[int], fails_at: int | None = None) -> None:
        self.name, self.n_left, self.log, self.fails_at = name, n, log, fails_at
        self.faults: list[Exception] = []
        self.done = threading.Event()

    @property
    def has_work(self) -> bool:
        return self.n_left > 0

    def take_turn(self) -> None:
        self.n_left -= 1
        if self.n_left == self.fails_at:
            raise RuntimeError("broken")
        self.log.append(self.name)
        if self.n_left == 0:
            self.done.set()

    def fail(self, error: Exception) -> None:
        self.faults.append(error)
        self.n_left = 0
        self.done.set()


def run(workers: list[Worker]) -> DecodeThread:
    """All attached in one command, so that they begin together; waits until no work is left."""
    thread = DecodeThread()

    def attach() -> None:
        for worker in workers:
            thread.attach(worker)

    thread.post(workers[0], attach)
    for worker in workers:
        assert worker.done.wait(60)
    return thread


@settings(max_examples=40, deadline=None)
@given(amounts=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_turns_are_taken_in_turn(amounts: list[int]) -> None:
    log: list[int] = []
    run([Worker(name, n, log) for name, n in enumerate(amounts)]).close()
    assert [log.count(name) for name in range(len(amounts))] == amounts
    rounds = [[name for name, n in enumerate(amounts) if n > i] for i in range(max(amounts))]
    assert log == [name for members in rounds for name in members]


def test_one_that_fails_does_not_hurt_the_others() -> None:
    log: list[int] = []
    bad, good = Worker(0, 9, log, fails_at=6), Worker(1, 9, log)
    run([bad, good]).close()
    assert (log.count(0), log.count(1)) == (2, 9)
    assert [str(fault) for fault in bad.faults] == ["broken"]
    assert not good.faults


def test_a_command_that_fails_is_its_workers_affair() -> None:
    worker, other = Worker(0, 1, []), Worker(1, 1, [])
    thread = run([worker, other])
    ran = threading.Event()

    def broken() -> None:
        raise ValueError("no")

    thread.post(worker, broken)
    thread.post(other, ran.set)
    assert ran.wait(60)
    assert ([str(fault) for fault in worker.faults], other.faults) == (["no"], [])
    thread.close()


def test_attached_and_detached() -> None:
    worker = Worker(0, 1, [])
    thread = run([worker])
    found: list[int] = []
    over = threading.Event()

    def look() -> None:
        found.append(thread.mapped_bytes)
        thread.detach(worker)
        thread.detach(worker)
        found.append(thread.mapped_bytes)
        over.set()

    thread.post(worker, look)
    assert over.wait(60)
    assert found == [5, 0]
    thread.close()
    thread.close()
    thread.post(worker, lambda: found.append(1))
    assert found == [5, 0]


def test_how_many_threads_decode() -> None:
    """While a turn is taken, for as long afterwards as is asked about, and of several engines the most."""

    class Slow(Worker):
        def take_turn(self) -> None:
            in_turn.set()
            assert go_on.wait(60)
            super().take_turn()

    in_turn, go_on = threading.Event(), threading.Event()
    fast, slow = Worker(0, 1, []), Slow(1, 1, [])
    slow.n_threads = 1
    thread = run([fast])
    assert (thread.n_busy_threads(3600), thread.n_busy_threads(-1)) == (2, 0)
    thread.post(slow, lambda: thread.attach(slow))
    assert in_turn.wait(60)
    assert (thread.n_busy_threads(3600), thread.n_busy_threads(-1)) == (2, 1)
    go_on.set()
    thread.close()
    assert (thread.n_busy_threads(3600), thread.n_busy_threads(-1)) == (2, 0)


def test_never_begun() -> None:
    thread = DecodeThread()
    thread.close()
    assert thread.mapped_bytes == 0
    assert thread.n_busy_threads(3600) == 0


@pytest.mark.parametrize("model", ["story", "q8_0"])
def test_two_engines_on_one_thread(drive: Drive, model_path: Callable[[str], Path], model: str) -> None:
    """Both at work at once answer as each does alone, one is closed and another loaded meanwhile."""
    alone = drive(model, n_slots=2, n_ctx=200)
    expected = [alone.run(alone.chat(None, seed=n).answer(some_prompt(n), 40)) for n in range(4)]
    thread = DecodeThread()

    async def play() -> list[list[int]]:
        def answer(engine: Engine, seed: int, prompt: list[int], n: int) -> Coroutine[Any, Any, list[int]]:
            return Chat(engine, None, replace(NOTHING, seed=seed)).answer(prompt, n)

        first, second = [
            await Engine.load(LoadParams(model_path(name), n_slots=2, n_ctx=200), thread) for name in (model, "f32")
        ]
        beside = asyncio.gather(*(answer(second, seed, [1, 5], 60) for seed in range(2)))
        answers = asyncio.gather(*(answer(first, seed, some_prompt(seed), 40) for seed in range(4)))
        third = await Engine.load(LoadParams(model_path("q8_0"), n_slots=1, n_ctx=100), thread)
        await third.close()
        await beside
        await second.close()
        found = await answers
        await first.close()
        return found

    assert asyncio.run(play()) == expected
    assert thread.mapped_bytes == 0
    thread.close()


def test_an_engine_that_breaks_leaves_the_other_alone(
    model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = DecodeThread()
    with (
        Driver(model_path("q8_0"), thread=thread, n_slots=1, n_ctx=100) as good,
        Driver(model_path("q8_0"), thread=thread, n_slots=1, n_ctx=100) as bad,
    ):

        def broken() -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(bad.engine._core, "_step", broken)
        for _ in range(2):
            with pytest.raises(EngineFault, match="a bug"):
                bad.run(bad.chat().call([1, 2, 3], n_predict=2))
        assert len(good.run(good.chat().call([1, 2, 3], n_predict=2)).sampled) == 2
    thread.close()


def test_a_load_that_is_cancelled_is_over_when_it_says_so(
    model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then a thread may still open the file, by a descriptor that its holder closes next."""
    began, may_go_on, n_loaded = threading.Event(), threading.Event(), 0

    def slow(params: LoadParams) -> tuple[Model, Model | None]:
        nonlocal n_loaded
        began.set()
        assert may_go_on.wait(60)
        n_loaded += 1
        return load_models(params)

    monkeypatch.setattr("canister.engine.engine.load_models", slow)

    async def play() -> None:
        task = asyncio.create_task(Engine.load(LoadParams(model_path("q8_0"))))
        await asyncio.to_thread(began.wait)
        task.cancel()
        await settle()
        task.cancel()
        await settle()
        assert not task.done()
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert n_loaded == 1

    asyncio.run(play())


def test_cancelled_while_loading(model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked for a model and went away leaves nothing on the thread."""
    thread = DecodeThread()

    async def play() -> int:
        loop, attach, attached = asyncio.get_running_loop(), thread.attach, asyncio.Event()

        def noted(worker: Engine) -> None:
            attach(worker)
            loop.call_soon_threadsafe(attached.set)

        monkeypatch.setattr(thread, "attach", noted)
        for _ in range(3):
            attached.clear()
            task = asyncio.create_task(Engine.load(LoadParams(model_path("f32"), n_slots=4, n_ctx=200), thread))
            await attached.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        engine = await Engine.load(LoadParams(model_path("q8_0"), n_slots=1, n_ctx=100), thread)
        left = thread.mapped_bytes - engine.mapped_bytes
        await engine.close()
        return left

    assert asyncio.run(play()) == 0
    thread.close()
