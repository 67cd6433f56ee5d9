"""`canister call` against a server: what is printed where, and the exit code."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from canister.cli.local import LocalServer
from tests.cli.conftest import Command, Done

DIR = '{"dir": ".", "max_entries": 0}'


@pytest.fixture
def call(canister: Command, running_server: LocalServer) -> Command:
    """`canister call llama_cpp …` as the controller of the running server."""

    def run(*arguments: object) -> Done:
        options = ("--network", running_server.url, "--data-dir", running_server.data_dir)
        return canister("call", *options, "llama_cpp", *arguments)

    return run


def test_ok_is_printed_and_ends_with_0(call: Command) -> None:
    done = call("health")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {"Ok": {"status_code": 200}}
    assert done.out.startswith("{\n  ")


def test_bare_replies_end_with_0(call: Command) -> None:
    done = call("get_max_tokens")
    assert done.code == 0
    assert set(json.loads(done.out)) == {"max_tokens_update", "max_tokens_query"}


def test_err_is_printed_and_ends_with_1(call: Command) -> None:
    done = call("filesystem_file_size", '{"filename": "none"}')
    assert done.code == 1
    assert json.loads(done.out) == {"Err": {"Other": "File does not exist: none"}}
    assert done.err == "canister: Err: File does not exist: none\n"


def test_err_record_is_told_in_one_line(call: Command) -> None:
    done = call("load_model", '{"args": []}')
    assert done.code == 1
    assert json.loads(done.out)["Err"]["status_code"] == 500
    assert done.err.startswith("canister: Err 500: --model not provided")


def test_reject_is_printed_and_ends_with_1(call: Command) -> None:
    done = call("set_max_tokens", '{"max_tokens_update": "many"}')
    assert done.code == 1
    assert "reject_message" in json.loads(done.out)
    assert done.err.startswith("canister: rejected (5, ")


def test_unknown_canister_is_a_reject(call: Command, canister: Command, running_server: LocalServer) -> None:
    done = canister("call", "--network", running_server.url, "llama_cp", "health")
    assert done.code == 1
    assert "llama_cpp" in done.err


def test_argument_from_stdin_and_from_a_file(call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(DIR))
    assert call("recursive_dir_content_query", "-").code == 0
    (tmp_path / "arg.json").write_text(DIR)
    assert call("recursive_dir_content_query", "--args-file", "arg.json").code == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("recursive_dir_content_query", "{dir: 1}"), "the argument is not JSON"),
        (("health", "{}", "--args-file", "arg.json"), "either"),
        (("health", "--args-file", "none.json"), "none.json"),
        (("run_updat",), "Did you mean 'run_update'?"),
        ((), "METHOD"),
    ],
)
def test_wrong_usage_ends_with_2_and_asks_no_server(canister: Command, arguments: tuple[str, ...], what: str) -> None:
    done = canister("call", "--network", "http://127.0.0.1:1", "llama_cpp", *arguments)
    assert (done.code, done.out) == (2, "")
    assert what in " ".join(done.err.split())


def test_no_server_is_told(canister: Command) -> None:
    done = canister("call", "--network", "http://127.0.0.1:1", "llama_cpp", "health")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("canister: No answer from http://127.0.0.1:1: ")


def test_who_calls(canister: Command, running_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def whoami(*options: object) -> Done:
        return canister("call", "--network", running_server.url, *options, "llama_cpp", "whoami")

    controller = canister("identity", "principal", "--data-dir", running_server.data_dir).out.strip()
    assert json.loads(whoami("--data-dir", running_server.data_dir).out) == controller
    assert json.loads(whoami("--api-key", running_server.api_key).out) == controller
    monkeypatch.setenv("CANISTER_API_KEY", running_server.api_key)
    assert json.loads(whoami().out) == controller
    assert json.loads(whoami("--anonymous").out) == "2vxsx-fae"


def test_keys_are_made_and_revoked_while_the_server_runs(canister: Command, running_server: LocalServer) -> None:
    folder = ("--data-dir", running_server.data_dir)
    key = canister("api-key", "create", "test-call", *folder).out.strip()
    who = ("call", "--network", running_server.url, "--api-key", key, "llama_cpp", "whoami")
    principal = json.loads(canister(*who).out)
    assert principal in canister("api-key", "list", *folder).out
    assert canister("api-key", "revoke", "test-call", *folder).code == 0
    done = canister(*who)
    assert done.code == 1
    assert "revoked" in done.err
