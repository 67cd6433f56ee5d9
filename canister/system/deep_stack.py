"""Work that calls itself very often, in libraries that end the process when their stack is full."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

STACK_BYTES = 64 << 20  # of which only what is used is memory

T = TypeVar("T")

_lock = threading.Lock()


def with_deep_stack(work: Callable[[], T]) -> T:
    """Do it on a thread with a deep stack, and wait; raises what it raises. Not on an event loop."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # for whoever waits
            errors.append(error)

    with _lock:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread = threading.Thread(target=run, name="deep stack", daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
