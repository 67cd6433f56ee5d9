"""What happens to the worker that makes an answer, when its herd has read so many events of it."""

from __future__ import annotations

import os
import signal

import pytest

from canister.herd.told_events import ToldEvents
from canister.herd.workers import Worker
from tests.herd.herds import InProcess


def maker(herd: InProcess) -> Worker:
    """The only worker that makes an answer."""
    (worker,) = (one for one in herd.workers if one.n_answers)
    return worker


class SignalAt:
    """Sends a signal, once. worker: that got it."""

    def __init__(
        self,
        herd: InProcess,
        monkeypatch: pytest.MonkeyPatch,
        n_events: int,
        number: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.herd, self.n_left, self.number = herd, n_events, number
        self.worker: Worker | None = None
        take = ToldEvents.take

        def told(events: ToldEvents, data: bytes) -> bytes:
            new = take(events, data)
            self.n_left -= 1
            if self.n_left == 0:
                self.worker = maker(self.herd)
                os.kill(self.worker.ref.pid, self.number)
            return new

        monkeypatch.setattr(ToldEvents, "take", told)
