"""Programs whose processes of the system run, a bounded number of them; the others come back by their logs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from canister.ao.processes.messages import ProcessInfo
from canister.ao.processes.program import Program


class Residents:
    """make: a program as its log has it. Any thread; a program is used by one at a time, who asks for it here."""

    def __init__(self, n_most: int, make: Callable[[ProcessInfo], Program]) -> None:
        self._n_most, self._make = n_most, make
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, Program] = OrderedDict()
        self._n_used = 0

    @contextmanager
    def used(self, info: ProcessInfo) -> Iterator[Program]:
        """It stays afterwards, unless something fails: then it comes back by its log."""
        with self._lock:
            program = self._idle.pop(info.id, None)
            self._n_used += 1
        try:
            self._make_room()
            if program is None:
                program = self._make(info)
            yield program
        except BaseException:
            if program is not None:
                program.stop()
            program = None
            raise
        finally:
            with self._lock:
                self._n_used -= 1
                if program is not None:
                    self._idle[info.id] = program

    def forget(self, process: str) -> None:
        """Its state is not what the journal has."""
        with self._lock:
            program = self._idle.pop(process, None)
        if program is not None:
            program.stop()

    @property
    def n_running(self) -> int:
        with self._lock:
            return self._n_used + len(self._idle)

    def stop(self) -> None:
        with self._lock:
            programs, self._idle = list(self._idle.values()), OrderedDict()
        for program in programs:
            program.stop()

    def _make_room(self) -> None:
        while True:
            with self._lock:
                if self._n_used + len(self._idle) <= self._n_most or not self._idle:
                    return
                _, program = self._idle.popitem(last=False)
            program.stop()
