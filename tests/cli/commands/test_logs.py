"""`canister logs` and `canister ps`: what a running server tells its controllers of itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from canister.cli.commands.logs import as_text
from canister.cli.shared import tables
from canister.client.local_server import LocalServer
from tests.cli.conftest import Command, Done
from tests.engine import tiny_models


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    flags = ("--canister", "first", "--canister", "second", "--query-instruction-limit", "none")
    with LocalServer(tmp_path_factory.mktemp("logs"), *flags) as server:
        yield server


@pytest.fixture
def run(canister: Command, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("CANISTER_URL", server.url)
    monkeypatch.setenv("CANISTER_DATA_DIR", str(server.data_dir))
    return canister


def test_the_log_of_a_server(run: Command) -> None:
    assert run("call", "first", "get_max_tokens").code == 0
    done = run("canister", "logs", "first")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ info +request  .*status=200", done.out, re.MULTILINE)
    assert len(run("logs", "first", "--tail", "2").out.splitlines()) == 2
    assert run("logs", "first", "--tail", "0").out == ""
    for line in run("logs", "first", "--json").out.splitlines():
        assert {"timestamp", "level", "event"} <= json.loads(line).keys()


def test_looking_at_the_log_leaves_no_line_in_it(run: Command) -> None:
    before = run("logs", "first", "--json").out.count("/query")
    assert run("logs", "first", "--json").out.count("/query") == before


def test_who_may_read_it(run: Command) -> None:
    alice = run("identity", "new", "alice").out.strip()
    denied = run("logs", "first", "--identity", "alice")
    assert (denied.code, denied.out) == (1, "")
    assert f"Caller {alice} is not allowed to access canister logs" in denied.err
    # Who controls one canister of two is told of that one alone: no requests, and nothing of the other.
    assert run("settings", "update", "second", "--add-controller", "alice").code == 0
    model = run("call", "second", "load_model", '{"args": ["--model", "none.gguf"]}')
    assert model.code == 1
    assert "request" not in run("logs", "second", "--identity", "alice").out
    assert run("settings", "update", "first", "--log-visibility", "public").code == 0
    assert run("logs", "first", "--identity", "anonymous").code == 0
    assert run("settings", "update", "first", "--log-visibility", "controllers").code == 0
    assert run("logs", "first", "--identity", "anonymous").code == 1


def test_lines_of_a_canister_for_its_own_controller(run: Command, tmp_path: Path) -> None:
    run("identity", "new", "bob")
    assert run("settings", "update", "first", "--add-controller", "bob").code == 0
    model = tiny_models.llama_model(tmp_path / "small.gguf", "q8_0")
    for name in ("first", "second"):
        assert run("upload", model, "--canister", name).code == 0
        assert run("call", name, "load_model", '{"args": ["--model", "models/model.gguf"]}').code == 0
    lines = [json.loads(line) for line in run("logs", "first", "--identity", "bob", "--json").out.splitlines()]
    assert {line["canister"] for line in lines} == {"first"}
    assert "model loaded" in [line["event"] for line in lines]


def test_following(server: LocalServer) -> None:
    where = ("--network", server.url, "--data-dir", str(server.data_dir))
    process = subprocess.Popen(
        [sys.executable, "-m", "canister", "logs", "first", "-f", "--tail", "0", "--interval", "0.05", *where],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    is_seen = threading.Event()

    def ask() -> None:
        # Whoever follows begins at some moment, so there are requests until one of them was told.
        while not is_seen.wait(0.05):
            httpx.get(f"{server.url}/openapi.json", headers={"X-Request-Id": "the-one-looked-for"})

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert any("the-one-looked-for" in line for line in process.stdout)
    finally:
        is_seen.set()
        asking.join()
        process.terminate()
        process.communicate()


def test_text_of_lines() -> None:
    line = '{"timestamp": "2026-11-30T07:41:36.5Z", "level": "info", "event": "run", "logger": "x", "a": 1, "b": null}'
    assert as_text(line) == "2026-11-30T07:41:36Z info     run  a=1"
    with_trace = (
        '{"timestamp": "2026-11-30T07:41:36.5Z", "level": "error", "event": "failed", "exception": "Traceback"}'
    )
    assert as_text(with_trace) == "2026-11-30T07:41:36Z error    failed\nTraceback"
    for text in ("no JSON", "[]", '{"event": 1}'):
        assert as_text(text) == text


# -- ps


def ps(run: Command) -> Done:
    done = run("ps", "first")
    assert done.code == 0, done.err
    return done


def test_who_runs_what(run: Command, server: LocalServer, tmp_path: Path) -> None:
    model = tiny_models.llama_model(tmp_path / "small.gguf", "q8_0")
    assert run("upload", model, "--canister", "first").code == 0
    assert run("call", "first", "load_model", '{"args": ["--model", "models/model.gguf", "-c", "100000"]}').code == 0
    assert ps(run).out.split() == ["CANISTER", "CALLER", "METHOD", "SECONDS", "PHASE", "PROMPT", "ANSWER", "TOK/S"]
    who = run("identity", "get-principal").out.strip()
    arguments = {"args": ["-p", "Once upon a time", "-n", "100000", "--ignore-eos"]}
    long = ["call", "first", "run_query", json.dumps(arguments), "--network", server.url]
    process = subprocess.Popen(
        [sys.executable, "-m", "canister", *long, "--data-dir", str(server.data_dir)], stdout=subprocess.DEVNULL
    )
    try:
        while (found := json.loads(run("ps", "--json").out))["first"]["running"] == []:
            assert process.poll() is None
        assert found["second"] == {"running": [], "waiting": []}
        (call,) = found["first"]["running"]
        assert (call["caller"], call["method"]) == (who, "run_query")
        while call["phase"] != "answer":
            (call,) = json.loads(run("ps", "first", "--json").out)["first"]["running"]
        assert call["prompt_tokens"] == call["prompt_tokens_wanted"] > 0
        assert call["tokens_per_second"] > 0
        shown = ps(run).out.splitlines()[1]
        assert shown.split()[:3] == ["first", who, "run_query"]
        assert f" {call['prompt_tokens']}/{call['prompt_tokens']} " in shown
    finally:
        process.terminate()
        process.communicate()


def test_ps_is_for_controllers(run: Command, server: LocalServer) -> None:
    key = run("api-key", "create", "watcher").out.strip()
    done = run("ps", "first", "--api-key", key)
    assert (done.code, done.out) == (1, "")
    assert "Access Denied. The call was made as " in done.err


# -- tables


def test_a_table_that_fits_the_page() -> None:
    rows = [("one", "a" * 30 + "z" * 33, "7"), ("two", "b" * 63, "10000")]
    whole = tables.render(("NAME", "WHO", "N"), rows, shorten=1, right=(2,))
    assert whole[1] == f"one   {'a' * 30}{'z' * 33}      7"
    fitted = tables.render(("NAME", "WHO", "N"), rows, shorten=1, right=(2,), width=40)
    assert max(map(len, fitted)) == 40
    assert fitted[1].startswith("one   aaaa")
    assert "aa…zz" in fitted[1]
    narrow = tables.render(("NAME", "WHO", "N"), rows, shorten=1, width=5)
    assert "aaaaa…zzzzz" in narrow[1]


def test_receipts_of_ones_own_calls_are_files_that_hold(run: Command, tmp_path: Path) -> None:
    for level in (1, 0):
        assert (
            run("call", "second", "set_access", f'(record {{ level = {level} : nat16; explanation = "" }})').code == 0
        )
    done = run("receipt", "0", "1", "--canister", "second", "--output", tmp_path)
    assert done.code == 0, done.err
    files = done.out.split()
    assert [Path(file).name for file in files] == ["0.receipt.json", "1.receipt.json"]
    checked = run("verify", *files)
    assert checked.code == 0, checked.out
    assert "2 receipts, all hold" in checked.out
    assert "note" not in checked.out
    assert run("receipt", "99", "--canister", "second").code != 0
