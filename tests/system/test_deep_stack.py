"""Work on a deep stack: elsewhere, with its result or its error here, and other threads as they were."""

from __future__ import annotations

import threading

import pytest

from canister.system.deep_stack import with_deep_stack


def test_it_runs_elsewhere_and_answers_here() -> None:
    before = threading.stack_size()
    assert with_deep_stack(threading.current_thread) is not threading.current_thread()
    assert threading.stack_size() == before
    with pytest.raises(ZeroDivisionError):
        with_deep_stack(lambda: 1 / 0)
    assert threading.stack_size() == before
