"""Logs go to stderr in the format that was asked for; foreign loggers take the same way."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from canister.telemetry import logs


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up_logs("info", "json")
    log = logs.get_logger("somewhere")
    with logs.log_fields(request_id="r1"):
        log.info("model loaded", seconds=1.5)
        logging.getLogger("foreign").warning("from %s", "outside")
    log.debug("not shown")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    captured = capsys.readouterr()
    assert captured.out == ""
    own, foreign, failed = map(json.loads, captured.err.splitlines())
    assert list(own)[:3] == ["timestamp", "level", "event"]
    assert {name: own[name] for name in ("level", "event", "logger", "seconds", "request_id")} == {
        "level": "info",
        "event": "model loaded",
        "logger": "somewhere",
        "seconds": 1.5,
        "request_id": "r1",
    }
    assert (foreign["level"], foreign["event"], foreign["request_id"]) == ("warning", "from outside", "r1")
    assert "ValueError: broken" in failed["exception"]
    assert "request_id" not in failed


def test_what_is_no_json_is_told_as_python_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up_logs("info", "json")
    error = OSError("gone")
    logs.get_logger("somewhere").error("stopped", exc_info=error, data=b"\xff", path=Path("a"))
    logs.get_logger("somewhere").error("stopped", exc_info=None)
    told, bare = map(json.loads, capsys.readouterr().err.splitlines())
    assert (told["data"], told["path"], told["exception"]) == (repr(b"\xff"), repr(Path("a")), "OSError: gone")
    assert "exception" not in bare


def test_a_stream_that_is_closed_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.set_up_logs("info", "json")
    stream.close()
    logs.get_logger("somewhere").info("nobody reads this")
    assert b"nobody reads this" in list(logs.RECENT.lines())[-1].text


def test_console(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up_logs("warning", "console")
    log = logs.get_logger("somewhere")
    log.info("not shown")
    log.warning("disk is nearly full", free_bytes=7)
    (line,) = capsys.readouterr().err.splitlines()
    assert "disk is nearly full" in line
    assert "free_bytes=7" in line


def test_auto_is_json_when_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up_logs("info", "auto")
    logs.get_logger("somewhere").info("hello")
    assert json.loads(capsys.readouterr().err)["event"] == "hello"


def test_uvicorn_tells_only_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up_logs("info", "json")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").error("it broke")
    assert json.loads(capsys.readouterr().err)["event"] == "it broke"
