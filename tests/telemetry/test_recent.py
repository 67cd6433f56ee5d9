"""What is kept of the log in memory: bounded, in order, and about whom."""

from __future__ import annotations

import json
import logging

from canister.telemetry import logs as telemetry
from canister.telemetry import recent
from canister.telemetry.recent import RecentLogs


def log_to(logs: RecentLogs, text: str, **fields: object) -> None:
    logs.add(json.dumps({"event": text, **fields}), fields.get("canister"))


def test_lines_of_a_canister_and_of_all() -> None:
    logs = RecentLogs()
    for number, canister in enumerate(("one", "two", None, "one")):
        fields = {} if canister is None else {"canister": canister}
        log_to(logs, f"line {number}", **fields)
    assert [b"line 0" in line.text for line in logs.lines("one")] == [True, False]
    known = list(logs.lines())
    assert len(known) == 4
    assert [line.index for line in known] == list(range(known[0].index, known[0].index + 4))
    assert list(logs.lines("three")) == []


def test_the_oldest_lines_go_first() -> None:
    logs = RecentLogs()
    for number in range(recent.MAX_LINES + 5):
        log_to(logs, f"line {number}")
    lines = list(logs.lines())
    assert len(lines) == recent.MAX_LINES
    assert b'"line 5"' in lines[0].text
    for number in range(200):
        log_to(logs, f"{number} " + "x" * recent.MAX_LINE_BYTES)
    lines = list(logs.lines())
    assert sum(len(line.text) for line in lines) <= recent.MAX_BYTES
    assert max(len(line.text) for line in lines) == recent.MAX_LINE_BYTES
    assert b"199 xx" in lines[-1].text


def test_indexes_of_a_later_process_are_larger() -> None:
    first, second = RecentLogs(), RecentLogs()
    log_to(first, "before")
    log_to(second, "after")
    assert next(first.lines()).index < next(second.lines()).index


def test_lines_are_json_whatever_the_log_itself_looks_like() -> None:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    try:
        telemetry.set_up_logs("info", "console")
        telemetry.get_logger("tests.recent").info("something happened", canister="one", tokens=3)
        logging.getLogger("tests.other").warning("and %s", "more")
    finally:
        root.handlers, root.level = before, level
    ours, others = (json.loads(line.text) for line in list(telemetry.RECENT.lines())[-2:])
    assert (ours["event"], ours["level"], ours["canister"], ours["tokens"]) == ("something happened", "info", "one", 3)
    assert (others["event"], others["level"]) == ("and more", "warning")
