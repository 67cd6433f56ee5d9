"""The log of calls keeps the newest ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from canister.metering.fees import Charge
from canister.state import call_log
from canister.state.call_log import PRUNED_AT_ONCE, CallLog
from tests.store.home import Home


def test_the_oldest_calls_go_some_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_log, "KEPT_CALLS", 3)
    with Home(tmp_path / "home") as home:
        log, n_calls, most = CallLog(home.database), 2 * PRUNED_AT_ONCE + 5, 0
        for number in range(n_calls):
            transaction = home.memory.begin()
            log.add(transaction, f"caller-{number}", "health", number, "ok", Charge(number, 0, None, {}))
            transaction.commit_sync()
            most = max(most, len(log.newest(None, None, n_calls)))
        assert 3 <= most <= 3 + PRUNED_AT_ONCE
        left = [call.timestamp_ns for call in log.newest(None, None, n_calls)]
        assert left == [*range(n_calls - 1, n_calls - 1 - len(left), -1)]
        assert 3 <= len(left) < PRUNED_AT_ONCE
