"""Log lines for people."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from canister.telemetry import logs
from canister.telemetry.console import ConsoleRenderer, colors_wanted

PRINCIPAL = "pfcrc-tiyor-p32fe-pulih-whhmq-fj5hd-a24bz-eurcm-fqj5n-gnipy-sae"


def rendered(*, colors: bool = False, **event: object) -> str:
    line = ConsoleRenderer(colors=colors)({"timestamp": "2026-11-30T07:14:26.521581Z", **event})
    return line if colors else line[len("07:14:26 ") :]


def test_a_request_is_one_short_line() -> None:
    line = rendered(
        level="info",
        event="request",
        verb="POST",
        path="/api/v4/canister/bkyz2-fmaaa-aaaaa-qaaaq-cai/call",
        status=200,
        caller=PRINCIPAL,
        milliseconds=1234.5,
        logger="canister.server.app",
        request_id="a" * 16,
    )
    assert line == "POST /api/v4/canister/bkyz2-fmaaa-aaaaa-qaaaq-cai/call 200 1234.5 ms  caller=pfcrc-…-sae"
    assert len(line) <= 91


def test_what_is_wrong_is_told_with_all_that_finds_it() -> None:
    line = rendered(level="error", event="request failed", request_id="abc", exception="Traceback\nValueError: x")
    assert line == "error: request failed  request_id=abc\nTraceback\nValueError: x"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, "7"),
        ("plain", "plain"),
        ("two words", "'two words'"),
        ("", "''"),
        ("a\nb", "'a\\nb'"),
        ("\x1b[31mred", "'\\x1b[31mred'"),
        (["/a", "/b"], "/a,/b"),
        ("bkyz2-fmaaa-aaaaa-qaaaq-cai", "bkyz2-fmaaa-aaaaa-qaaaq-cai"),
    ],
)
def test_values(value: object, shown: str) -> None:
    assert rendered(event="it", field=value, nothing=None) == f"it  field={shown}"


def test_colors() -> None:
    assert "\x1b[33mwarning: it\x1b[0m" in rendered(colors=True, level="warning", event="it")
    assert "\x1b" not in rendered(level="warning", event="it")
    assert colors_wanted({"TERM": "xterm"}, on_terminal=True)
    assert colors_wanted({"NO_COLOR": ""}, on_terminal=True)
    assert not colors_wanted({"NO_COLOR": "1"}, on_terminal=True)
    assert not colors_wanted({"TERM": "dumb"}, on_terminal=True)
    assert not colors_wanted({}, on_terminal=False)


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


@pytest.mark.usefixtures("restored_logging")
def test_a_stack_shows_no_values_of_variables(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up_logs("info", "console")
    prompt = "a secret prompt"
    try:
        raise ValueError("broken")
    except ValueError:
        logs.get_logger("somewhere").exception("failed")
    error = capsys.readouterr().err
    assert "ValueError: broken" in error
    assert prompt not in error


@pytest.mark.usefixtures("restored_logging")
def test_lines_that_are_held_back_come_in_order_and_are_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up_logs("info", "console")
    log = logs.get_logger("somewhere")
    with logs.logs_held_back() as release:
        log.info("first")
        assert capsys.readouterr().err == ""
        release()
        log.info("second")
        release()
    with logs.logs_held_back():
        log.info("third")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["first", "second", "third"]
