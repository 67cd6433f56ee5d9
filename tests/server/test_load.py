"""A short load: every reply is the one that its chat gets alone. `python -m tests.bench.load` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.load import CALLS_PER_CHAT, load

pytestmark = pytest.mark.anyio


async def test_no_reply_is_lost_or_mixed_up(tmp_path: Path) -> None:
    limits = ("--max-calls-per-caller", "3", "--max-queue-per-caller", "5")
    report = await load(tmp_path / "data", 8, 2.0, 12, *limits)
    assert report.errors == []
    assert report.wrong == []
    assert report.n_replies >= 8 * 2 * CALLS_PER_CHAT
    assert set(report.statuses) == {"200"}  # the flooder alone is sent away
    assert set(report.flood_statuses) == {"200", "429"}
