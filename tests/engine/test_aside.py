"""Contexts are made and given back on another thread than the one that decodes: whoever decodes is not held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from canister.engine.aside import Aside, computed_aside, done_aside, run_through
from canister.engine.engine import Engine, LoadParams, ModelError
from canister.engine.kv.in_place import KvMemory
from canister.engine.llama import Context, Model
from canister.engine.llama_types import ContextParams
from canister.engine.load import calibration, loader
from canister.engine.load.calibration import PROBE_ROWS
from canister.engine.thread import DecodeThread
from canister.system.machine import usable_cores
from tests.engine.driver import Driver
from tests.engine.test_batch_invariance import some_prompt

PATIENCE_SECONDS = 240  # for what comes at once, or never


class Held:
    """Contexts whose making, and whose end, waits until it is let go; and on which threads that was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.threads: set[str] = set()
        self.made: list[Context] = []
        held = self

        def making(model: Model, shape: ContextParams, name: str) -> Context:
            held.wait()
            held.made.append(Context(model, shape, name))
            return held.made[-1]

        monkeypatch.setattr(loader, "Context", making)

    def wait(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        assert self.may_end.wait(PATIENCE_SECONDS)


@pytest.fixture
def thread() -> Iterator[DecodeThread]:
    thread = DecodeThread("decoding")
    yield thread
    thread.close()


def test_a_chat_goes_on_while_a_context_is_made(
    model_path: Callable[[str], Path], thread: DecodeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_path("q8_0")
    with Driver(path, thread=thread, n_slots=1, n_ctx=128) as first:
        held = Held(monkeypatch)

        async def both() -> Engine:
            loading = asyncio.create_task(Engine.load(LoadParams(path, n_slots=1, n_ctx=128, name="other"), thread))
            assert await asyncio.to_thread(held.begun.wait, PATIENCE_SECONDS)
            await first.chat("k").call(some_prompt(1), n_predict=5)
            assert not loading.done()
            held.may_end.set()
            return await loading

        other = first.run(both())
        assert held.threads == {"aside other"}
        has_choice = usable_cores() > 1  # of how many threads decode
        assert len(held.made) == 3 + has_choice  # to measure kernels, and speeds, to look, to serve
        first.run(other.close())


def test_a_chat_goes_on_while_cells_and_contexts_are_given_back(
    model_path: Callable[[str], Path], thread: DecodeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_path("q8_0")
    with Driver(path, thread=thread, n_slots=1, n_ctx=128) as first:
        threads: dict[str, str] = {}
        forget, close = KvMemory.forget, Context.close

        def forgetting(memory: KvMemory) -> None:
            threads["forget"] = threading.current_thread().name
            forget(memory)

        def closing(context: Context) -> None:
            threads["close"] = threading.current_thread().name
            close(context)

        monkeypatch.setattr(KvMemory, "forget", forgetting)
        other = first.run(Engine.load(LoadParams(path, n_slots=1, n_ctx=128, name="other"), thread))
        monkeypatch.setattr(Context, "close", closing)
        first.run(other.close())
        assert threads["forget"] == threads["close"] == "aside other"


def test_a_load_that_is_given_up_leaves_no_context(
    model_path: Callable[[str], Path], thread: DecodeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_path("q8_0")
    with Driver(path, thread=thread, n_slots=1, n_ctx=128) as first:
        held = Held(monkeypatch)

        async def given_up() -> None:
            loading = asyncio.create_task(Engine.load(LoadParams(path, n_slots=1, n_ctx=128, name="other"), thread))
            assert await asyncio.to_thread(held.begun.wait, PATIENCE_SECONDS)
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            held.may_end.set()

        first.run(given_up())
        first.run(first.chat("k").call(some_prompt(1), n_predict=2))  # what was posted before is done by then
        while not held.made or held.made[-1]._ctx is not None:
            first.run(first.chat("k").call([1], n_predict=1))
        assert len(held.made) == 1
        assert first.engine.stats().n_running == 0


def test_kernels_are_measured_aside_when_others_decode(
    model_path: Callable[[str], Path], thread: DecodeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_path("q8_0")
    with Driver(path, thread=thread, n_slots=1, n_ctx=128) as first:
        alone = first.engine.info
        most: dict[str, int] = {}  # rows of one decode, by thread
        decode = Context.decode

        def decoding(context: Context, streams: Sequence[int], *rest: Any) -> None:
            name = threading.current_thread().name
            most[name] = max(most.get(name, 0), len(streams))
            decode(context, streams, *rest)

        monkeypatch.setattr(Context, "decode", decoding)
        other = first.run(Engine.load(LoadParams(path, n_slots=1, n_ctx=128, name="other"), thread))
        assert most["aside other"] >= PROBE_ROWS
        assert most["decoding"] <= 3
        assert (other.info.row_classes, other.info.policy) == (alone.row_classes, alone.policy)
        first.run(other.close())


def test_measuring_ends_early_when_nobody_wants_it(
    model_path: Callable[[str], Path], thread: DecodeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_path("q8_0")
    begun, may_go_on = threading.Event(), threading.Event()
    measuring: list[str] = []

    def endless(context: Context, *_: object) -> Iterator[None]:
        try:
            while True:
                yield
                begun.set()
                assert may_go_on.wait(PATIENCE_SECONDS)
        finally:
            measuring.append("ended")

    with Driver(path, thread=thread, n_slots=1, n_ctx=128) as first:
        monkeypatch.setattr(calibration, "measure_kernels", endless)

        async def given_up() -> None:
            loading = asyncio.create_task(Engine.load(LoadParams(path, n_slots=1, n_ctx=128, name="other"), thread))
            assert await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await first.chat("k").call(some_prompt(1), n_predict=2)  # what was posted before is done by then
            may_go_on.set()

        first.run(given_up())
        while not measuring:
            first.run(first.chat("k").call([1], n_predict=1))
        assert measuring == ["ended"]


def test_an_error_aside_is_the_error_of_the_load(
    model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> Context:
        raise ModelError("there is no room")

    monkeypatch.setattr(loader, "Context", failing)
    with pytest.raises(ModelError, match="there is no room"):
        asyncio.run(Engine.load(LoadParams(model_path("q8_0"), n_ctx=128)))


def test_steps() -> None:
    dropped: list[int] = []

    def steps():  # type: ignore[no-untyped-def]
        yield None
        first = yield from done_aside(lambda: 1, dropped.append)
        yield None
        return first + (yield from done_aside(lambda: 2, dropped.append))

    assert run_through(steps()) == 3

    def more() -> Generator[None, None, int]:
        yield
        return 7

    assert run_through(computed_aside(more)) == 7
    assert dropped == []
    step = Aside(lambda: 5, dropped.append)
    step.run()
    step.drop()
    assert dropped == [5]
    failed = Aside(lambda: 1 // 0, dropped.append)
    failed.run()
    failed.drop()
    with pytest.raises(ZeroDivisionError):
        failed.result()
