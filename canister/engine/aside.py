"""Slow work, done on a thread of its own while other engines take their turns on the decode thread.

llama.cpp writes zeros into all of a context's memory, so contexts are made and freed here. The only decodes here are
those that measure a model's kernels, and those of long texts for embeddings, because OpenMP keeps workers for each
thread that decodes, until the thread ends.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

NICENESS = 15  # the threads of a decode wait for each other: whoever takes part of one core holds all of them up


class Aside(Generic[T]):
    """One piece of work. undo: drops its result when nobody wants it any more."""

    def __init__(self, work: Callable[[], T], undo: Callable[[T], None] = lambda _: None) -> None:
        self._work, self._undo = work, undo
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.is_wanted = True  # to be cleared by whoever will drop it: work in steps ends early then

    def run(self) -> None:
        """On any thread, once; does not raise."""
        try:
            self._results.append(self._work())
        except BaseException as error:  # for whoever asks for the result
            self._error = error

    def result(self) -> T:
        """After `run`; raises what the work raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def drop(self) -> None:
        """After `run`, in place of `result`."""
        for result in self._results:
            self._undo(result)


Steps = Generator[Aside[Any] | None, None, T]
"""Work in steps for the thread that decodes. It yields what is to be done aside before the next step, or None."""


def done_aside(work: Callable[[], T], undo: Callable[[T], None]) -> Generator[Aside[T] | None, None, T]:
    """For use in a generator of steps: have the work done aside and return its result."""
    step = Aside(work, undo)
    yield step
    return step.result()


def computed_aside(steps: Callable[[], Generator[None, None, T]]) -> Generator[Aside[T] | None, None, T]:
    """As `done_aside`, for what computes in steps of its own; it ends between two of them when nobody wants it."""

    def work() -> T:
        running = steps()
        try:
            while step.is_wanted:
                next(running)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            running.close()
        raise RuntimeError("nobody wants it any more")

    step = Aside(work)
    yield step
    return step.result()


def step_back() -> None:
    """Let the threads that answer somebody go before this one, and those that it makes."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def run_through(steps: Steps[T]) -> T:
    """All steps at once, on this thread."""
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        if step is not None:
            step.run()
