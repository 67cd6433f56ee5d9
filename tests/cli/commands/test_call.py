"""`canister call` against a server: the forms of arguments and replies, and the exit code."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from canister.api import codec
from canister.api.methods import BY_NAME
from canister.api.records import StatusCodeRecord
from canister.client.local_server import LocalServer
from canister.ic.principal import ANONYMOUS
from tests.cli.conftest import Command, Done

DIR = '{"dir": ".", "max_entries": 0}'


@pytest.fixture
def call(canister: Command, running_server: LocalServer) -> Command:
    """`canister call llama_cpp …` as the controller of the running server."""

    def run(*arguments: object) -> Done:
        options = ("--network", running_server.url, "--data-dir", running_server.data_dir)
        return canister("call", *options, "llama_cpp", *arguments)

    return run


def test_a_reply_is_printed_as_icp_does(call: Command) -> None:
    for arguments in (("health",), ("health", "()"), ("--query", "health", "()")):
        done = call(*arguments)
        assert (done.code, done.err) == (0, "")
        assert done.out == "(variant { Ok = record { status_code = 200 : nat16 } })\n"
    done = call("get_max_tokens")
    assert done.out == "(record { max_tokens_query = 0 : nat64; max_tokens_update = 0 : nat64 })\n"


def test_an_err_is_a_reply_like_any_other_to_icp(call: Command) -> None:
    done = call("filesystem_file_size", '(record { filename = "none" })')
    assert (done.code, done.err) == (0, "")
    assert done.out == '(variant { Err = variant { Other = "File does not exist: none" } })\n'


@pytest.mark.parametrize(
    ("output", "printed"),
    [
        ("auto", "(variant { Ok = record { status_code = 200 : nat16 } })"),
        ("candid", "(variant { Ok = record { status_code = 200 : nat16 } })"),
        ("pp", "(variant { Ok = record { status_code = 200 : nat16 } })"),
        ("idl", "(variant { Ok = record { status_code = 200 : nat16;} })"),
        ("json", '{\n  "Ok": {\n    "status_code": 200\n  }\n}'),
    ],
)
def test_forms_of_a_reply(call: Command, output: str, printed: str) -> None:
    assert call("health", "--output", output).out == f"{printed}\n"


def test_a_reply_in_hex_and_in_the_document_of_icp(call: Command) -> None:
    in_hex = call("health", "-o", "hex").out.strip()
    assert codec.decode_reply(BY_NAME["health"], bytes.fromhex(in_hex)).value == StatusCodeRecord()
    assert call("health", "--output", "raw").out.strip() == in_hex
    document = json.loads(call("health", "--json").out)
    assert document == {
        "response_bytes": in_hex,
        "response_text": None,
        "response_candid": "(variant { Ok = record { status_code = 200 : nat16 } })",
    }
    done = call("recursive_dir_content_query", DIR, "-o", "text")
    assert done.code == 0 or "not UTF-8" in done.err


def test_forms_of_an_argument(call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = BY_NAME["filesystem_file_size"]
    text = '(record { filename = "none" })'
    data = codec.encode_args(method, codec.args_from_text(method, text))
    (tmp_path / "arg.did").write_text(text)
    (tmp_path / "arg.bin").write_bytes(data)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    for arguments in (
        (text,),
        (text.strip("()"),),
        (data.hex(),),
        (data.hex(), "--args-format", "hex"),
        (data.hex(), "--type", "raw"),
        (text, "--type", "idl"),
        ("--args-file", "arg.did"),
        ("--argument-file", "arg.did", "--args-format", "candid"),
        ("--args-file", "arg.bin", "--args-format", "bin"),
        ("-",),
        ('{"filename": "none"}', "-o", "candid"),
    ):
        assert "File does not exist: none" in call(method.name, *arguments).out, arguments
    assert "revoked" not in call("revokeAdminRole", "2vxsx-fae").err


def test_lines_written_for_dfx_and_icp_work_as_they_stand(canister: Command, running_server: LocalServer) -> None:
    server = ("--data-dir", running_server.data_dir)
    for line in (
        ("canister", "call", "llama_cpp", "whoami", "--network", running_server.url),
        ("-qq", "canister", "call", "llama_cpp", "whoami", "()", "-n", running_server.url, "--output", "idl"),
        (
            "canister",
            "call",
            "-e",
            "local",
            "llama_cpp",
            "whoami",
            "--project-root-override",
            "/",
            "-n",
            running_server.url,
        ),
        ("canister", "call", "--identity", "anonymous", "--update", "llama_cpp", "whoami", "-n", running_server.url),
    ):
        who = ANONYMOUS if "anonymous" in line else canister("identity", "principal", *server).out.strip()
        assert canister(*line, *server).out == f'("{who}")\n'


def test_optional_arguments_may_be_left_out(call: Command) -> None:
    assert call("set_cache_cleanup_config").out.startswith("(\n  variant {\n    Ok = record {")


# -- JSON arguments are answered in JSON


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


def test_reject_of_a_call_in_candid_goes_to_stderr(canister: Command, running_server: LocalServer) -> None:
    done = canister("call", "--network", running_server.url, "--anonymous", "no_such_canister", "health")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("canister: rejected (3, IC0301): ")


def test_reject_is_printed_and_ends_with_1(canister: Command, running_server: LocalServer) -> None:
    where = ("call", "--rest", "--network", running_server.url)
    done = canister(*where, "llama_cp", "set_max_tokens", '{"max_tokens_update": 1, "max_tokens_query": 1}')
    assert done.code == 1
    assert "reject_message" in json.loads(done.out)
    assert done.err.startswith("canister: rejected (3, IC0301)")


def test_unknown_canister_is_a_reject(call: Command, canister: Command, running_server: LocalServer) -> None:
    done = canister("call", "--network", running_server.url, "llama_cp", "health")
    assert done.code == 1
    assert "llama_cpp" in done.err


def test_argument_from_stdin_and_from_a_file(call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(DIR))
    assert call("recursive_dir_content_query", "-").code == 0
    (tmp_path / "arg.json").write_text(DIR)
    assert call("recursive_dir_content_query", "--args-file", "arg.json", "--args-format", "json").code == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("recursive_dir_content_query", "{dir: 1}"), "the argument is not JSON"),
        (("run_update", '{"arg": []}'), "field args: Field required"),
        (("run_update", '{"args": [1]}'), "field args.0: Input should be a valid string (given: 1)"),
        (("set_access", "1"), "Input should be an object (given: 1)"),
        (("set_access", "1"), 'Such as: {"level": 1}'),
        (
            ("set_max_tokens", '{"max_tokens_update": -1, "max_tokens_query": 0}'),
            "field max_tokens_update: Input should be greater than or equal to 0 (given: -1)",
        ),
        (("health", "{}", "--args-file", "arg.json"), "either"),
        (("health", "--args-file", "none.json"), "none.json"),
        (("run_updat",), "Did you mean 'run_update'?"),
        (("run_update", "(record { args = vec {1} })"), "line 1, column 23: text expected, not 1"),
        (("run_update", "--args-format", "hex", "xyz"), "is not hex"),
        (("run_update", "4449444c0000"), "there are only 0 arguments"),
        (("run_update", "--args-format", "bin", "x"), "--args-file"),
        (("run_update", "--query", "()"), "`run_update` is an update method, not a query method"),
        (("run_update",), "run_update takes an argument, for instance: (record { args = vec {"),
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
    assert done.err == (
        "canister: No answer from http://127.0.0.1:1: nobody listens there. Is a server running there? "
        "`canister serve` starts one, --network URL or CANISTER_URL names another.\n"
    )
    assert canister("call", "--rest", "--network", "http://127.0.0.1:1", "llama_cpp", "health").err == done.err


@pytest.fixture
def web_server() -> Iterator[str]:
    """URL of something else that speaks HTTP: it knows no path."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if "json" in self.path:
            self.send_response(404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"detail": "Not Found"}')
        else:
            self.send_error(404, "Not a page of mine")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("path", ["", "/json"])
@pytest.mark.parametrize(
    "line",
    [
        ("call", "llama_cpp", "health"),
        ("call", "--rest", "--anonymous", "llama_cpp", "health"),
        ("status", "llama_cpp"),
        ("id", "llama_cpp"),
        ("network", "status"),
        ("estimate", "--prompt", "hi", "--anonymous"),
    ],
)
def test_a_server_that_is_another_one_is_told_as_such(
    canister: Command, web_server: str, line: tuple[str, ...], path: str
) -> None:
    done = canister(*line, "--network", web_server + path)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"canister: No llama-canister answers at {web_server}{path}: HTTP 404, ")
    assert ("/html" in done.err, "/json" in done.err) == (not path, bool(path))
    assert "<" not in done.err
    assert "{" not in done.err
    assert ("try " + web_server in done.err) == bool(path)


def test_a_path_behind_the_url_and_https(canister: Command, running_server: LocalServer) -> None:
    done = canister("call", "llama_cpp", "health", "--network", f"{running_server.url}/docs")
    assert done.code == 1
    assert f"No llama-canister answers at {running_server.url}/docs: " in done.err
    assert f"try {running_server.url}" in done.err
    for door in ((), ("--rest", "--anonymous")):
        https = running_server.url.replace("http:", "https:")
        done = canister("call", *door, "llama_cpp", "health", "--network", https)
        assert done.code == 1
        assert f"what listens there speaks http, not https. Try --network {running_server.url}" in done.err


def test_who_was_denied_is_told(canister: Command, running_server: LocalServer, tmp_path: Path) -> None:
    server = ("--network", running_server.url)
    limits = "(record { max_tokens_update = 0; max_tokens_query = 0 })"
    done = canister("call", *server, "llama_cpp", "set_max_tokens", limits, "--anonymous")
    assert (done.code, done.out) == (0, '(variant { Err = variant { Other = "Access Denied" } })\n')
    assert done.err.startswith("canister: The call was made as 2vxsx-fae, the anonymous caller. Give --identity NAME, ")
    alice = canister("identity", "new", "alice").out.strip()
    done = canister("call", *server, "llama_cpp", "run_query", '{"args": ["-p", "hi"]}', "--identity", "alice")
    assert done.code == 1
    assert f"canister: The call was made as {alice}. Call as another with --identity NAME" in done.err
    assert """canister call llama_cpp set_access '{"level": 1}'""" in done.err
    (tmp_path / "some.gguf").write_bytes(b"GGUF" + bytes(100))
    for line in (("upload", "some.gguf"), ("download", "models/none.gguf")):
        done = canister(*line, *server, "--identity", "alice")
        assert done.code == 1
        assert f"Access Denied. The call was made as {alice}" in done.err


def test_saved_chats_have_to_be_turned_on(call: Command) -> None:
    done = call("get_chats")
    assert "DB_CHATS_ACTIVE is false" in done.out
    assert done.err == "canister: Chats are not saved until that is turned on: canister call llama_cpp chats_resume\n"


def test_who_calls(canister: Command, running_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def whoami(*options: object) -> Done:
        return canister("call", "--network", running_server.url, *options, "-o", "json", "llama_cpp", "whoami")

    controller = canister("identity", "principal", "--data-dir", running_server.data_dir).out.strip()
    assert json.loads(whoami("--data-dir", running_server.data_dir).out) == controller
    assert json.loads(whoami("--api-key", running_server.api_key).out) == controller
    monkeypatch.setenv("CANISTER_API_KEY", running_server.api_key)
    assert json.loads(whoami().out) == controller
    assert json.loads(whoami("--anonymous").out) == "2vxsx-fae"


@pytest.mark.parametrize(
    "argument",
    [
        "(record { max_tokens_update = 0; max_tokens_query = 0 })",
        '{"max_tokens_update": 0, "max_tokens_query": 0}',
    ],
)
def test_who_calls_does_not_depend_on_how_the_argument_is_written(
    canister: Command, running_server: LocalServer, argument: str
) -> None:
    def refused(*options: object) -> bool:
        server = ("--network", running_server.url, "--data-dir", running_server.data_dir)
        return "Access Denied" in canister("call", *server, *options, "llama_cpp", "set_max_tokens", argument).out

    canister("identity", "new", "alice")
    assert not refused()
    assert refused("--identity", "alice")
    assert refused("--identity", "anonymous")
    canister("identity", "default", "alice")
    assert refused()
    assert not refused("--identity", "controller")


def test_keys_are_made_and_revoked_while_the_server_runs(canister: Command, running_server: LocalServer) -> None:
    folder = ("--data-dir", running_server.data_dir)
    key = canister("api-key", "create", "test-call", *folder).out.strip()
    who = ("call", "--network", running_server.url, "--api-key", key, "-o", "json", "llama_cpp", "whoami")
    principal = json.loads(canister(*who).out)
    assert principal in canister("api-key", "list", *folder).out
    assert canister("api-key", "revoke", "test-call", *folder).code == 0
    done = canister(*who)
    assert done.code == 1
    assert "revoked" in done.err


def test_cost_is_told_beside_the_reply(call: Command) -> None:
    done = call("log_resume", "--cost")
    assert "status_code = 200" in done.out
    assert re.search(r"[\d,]+ instructions, [\d,]+ cycles \(0\.0\d+ USD\), 0\.0 s on the main network", done.err)
