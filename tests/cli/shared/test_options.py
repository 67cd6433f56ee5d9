"""Which server and which caller a command line means."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from canister.cli.shared import settings
from canister.cli.shared.connection import caller, connection, url_of
from canister.cli.shared.settings import load_settings
from canister.client.errors import ClientError, NotConnected, ProtocolError
from canister.client.ic import IcCanister
from canister.client.identities import IdentityStore
from canister.client.local_server import LocalServer
from canister.client.rest import Canister
from canister.defaults import LOCAL_URL
from canister.ic.certificate import RootKey
from canister.ic.identity import Identity
from tests.cli.conftest import Command

REMOTE = "https://canisters.example.org"


@pytest.fixture
def at_hand(running_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    """The server that `local` means, and whose folder is the default one."""
    monkeypatch.setenv("CANISTER_URL", running_server.url)
    monkeypatch.setenv("CANISTER_DATA_DIR", str(running_server.data_dir))
    return running_server


@pytest.fixture
def another_folder(tmp_path: Path) -> Path:
    """Of a server that is not the running one."""
    (tmp_path / "controller.key").write_text("lc_of_another_server\n")
    (tmp_path / "root.key").write_text(f"{RootKey.generate().to_bytes().hex()}\n")
    return tmp_path


def key_for(network: str = "local", api_key: str | None = None, data_dir: Path | None = None) -> str | None:
    return connection(network, api_key, False, data_dir).api_key


def test_local_is_the_default_port_or_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert url_of("local") == LOCAL_URL
    monkeypatch.setenv("CANISTER_URL", "http://10.0.0.7:9000/")
    assert url_of("local") == "http://10.0.0.7:9000"
    assert url_of(REMOTE) == REMOTE


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"HOST": "0.0.0.0", "PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"HOST": "::"}, "http://[::1]:8000"),
        ({"HOST": "10.1.2.3"}, "http://10.1.2.3:8000"),
        ({"PORT": "0"}, LOCAL_URL),  # a free one: nobody knows which
        ({"PORT": "9000", "URL": "http://10.0.0.7:1"}, "http://10.0.0.7:1"),
    ],
)
def test_local_is_where_serve_listens_with_the_same_settings(
    settings: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"CANISTER_{name}", value)
    assert url_of("local") == url


def test_local_follows_the_file_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("canister.toml").write_text("port = 9000\n")
    assert url_of("local") == "http://127.0.0.1:9000"


@pytest.mark.parametrize("network", ["ic", "staging", "127.0.0.1:8000", "ftp://host", "http://", ""])
def test_other_networks_are_told(network: str) -> None:
    with pytest.raises(typer.BadParameter, match="'local', a URL") as told:
        url_of(network)
    assert ("icp or dfx" in str(told.value)) == (network == "ic")


@pytest.mark.parametrize("environment", ["ic", "staging", "http://127.0.0.1:8000"])
def test_other_environments_are_told(canister: Command, environment: str) -> None:
    for line in (
        ("status", "llama_cpp"),
        ("call", "llama_cpp", "health"),
        ("id", "llama_cpp"),
        ("top-up", "llama_cpp", "--amount", "1t"),
        ("settings", "update", "llama_cpp", "--freezing-threshold", "1d"),
        ("network", "status"),
    ):
        done = canister(*line, "-e", environment)
        assert (done.code, done.out) == (2, ""), line
        assert f"an environment is 'local' here, not '{environment}'" in " ".join(done.err.split())


def test_key_order(monkeypatch: pytest.MonkeyPatch, at_hand: LocalServer) -> None:
    assert key_for() == at_hand.api_key
    monkeypatch.setenv("CANISTER_API_KEY", "lc_environment")
    assert key_for() == "lc_environment"
    assert key_for(api_key="lc_flag") == "lc_flag"
    assert connection("local", None, True, None).api_key is None
    with pytest.raises(typer.BadParameter):
        connection("local", "lc_flag", True, None)


def test_without_any_key_the_caller_is_anonymous(tmp_path: Path) -> None:
    assert key_for(data_dir=tmp_path) is None


def test_the_controllers_key_is_not_sent_to_other_machines(
    monkeypatch: pytest.MonkeyPatch, at_hand: LocalServer
) -> None:
    assert key_for(REMOTE) is None


def test_the_controllers_key_is_sent_to_the_server_of_its_folder_alone(
    at_hand: LocalServer, another_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ClientError, match="does not prove that it is the server of"):
        key_for(data_dir=another_folder)
    monkeypatch.setenv("CANISTER_DATA_DIR", str(another_folder))
    assert key_for() is None
    told = capsys.readouterr().err
    assert str(another_folder / "controller.key") in told
    assert "is of another server" in told
    (another_folder / "root.key").unlink()
    assert key_for() is None


class Foreign:
    """A server that logs what it is sent. It gives the real server's public answers, and its proofs if it relays."""

    def __init__(self, real: LocalServer, relays: bool) -> None:
        proof = httpx.get(f"{real.url}/proof", params={"nonce": "a" * 64}).content
        status = httpx.get(f"{real.url}/api/v2/status").content
        self.asked: list[tuple[str, str | None]] = []
        foreign = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                foreign.asked.append((self.path.partition("?")[0], self.headers.get("Authorization")))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b'{"Ok": [1]}'
                if self.path.startswith("/proof"):
                    body = httpx.get(f"{real.url}{self.path}").content if relays else proof
                elif self.path == "/api/v2/status":
                    body = status
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def foreign_server(real: LocalServer, *, relays: bool) -> Iterator[Foreign]:
    foreign = Foreign(real, relays)
    thread = threading.Thread(target=foreign.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield foreign
    finally:
        foreign.server.shutdown()
        thread.join()
        foreign.server.server_close()


@pytest.mark.parametrize("relays", [False, True], ids=["repeats", "relays"])
def test_the_controllers_key_is_not_sent_to_a_server_that_repeats_or_relays_the_right_ones_answers(
    at_hand: LocalServer, canister: Command, capsys: pytest.CaptureFixture[str], relays: bool
) -> None:
    with foreign_server(at_hand, relays=relays) as foreign:
        assert key_for(foreign.url) is None
        assert "calling as anonymous" in capsys.readouterr().err
        with pytest.raises(ClientError, match="does not prove"):
            key_for(foreign.url, data_dir=at_hand.data_dir)
        done = canister("call", "--rest", "--network", foreign.url, "llama_cpp", "health")
        assert (done.code, done.out) == (1, "")
        assert f"No llama-canister answers at {foreign.url}" in done.err
        assert "pydantic" not in done.err
        assert "validation error" not in done.err
        assert len(foreign.asked) == 4
        assert {key for _, key in foreign.asked} == {None}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_right_server_proves_itself_under_each_of_its_names_with_one_request(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalServer(tmp_path / "data", "--host", "127.0.0.1") as server:
        url = server.url.replace("127.0.0.1", name)
        assert key_for(url, data_dir=server.data_dir) == server.api_key
        monkeypatch.setattr(httpx, "stream", None)  # nothing is asked again
        assert key_for(url, data_dir=server.data_dir) == server.api_key


def test_a_server_for_both_families_of_addresses_proves_itself(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("the machine has no IPv6")
    with LocalServer(tmp_path / "data", "--host", "::") as server:
        port = server.url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            assert key_for(f"http://{host}:{port}", data_dir=server.data_dir) == server.api_key


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"\xff\xfe", b"{" * 20_000])
def test_a_proof_that_is_nonsense_is_told(
    another_folder: Path, body: bytes, at_hand: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with foreign_server(at_hand, relays=True) as foreign:
        monkeypatch.setattr(httpx, "get", lambda _: httpx.Response(200, content=body))
        with pytest.raises(ProtocolError, match="No llama-canister answers"):
            key_for(foreign.url, data_dir=another_folder)


def test_without_a_server_the_key_goes_nowhere(another_folder: Path) -> None:
    with pytest.raises(NotConnected, match="canister serve"):
        key_for("http://127.0.0.1:1", data_dir=another_folder)


def test_unusable_key_is_told() -> None:
    with pytest.raises(typer.BadParameter, match="copied whole"):
        key_for(api_key="lc_broken\nin two")


def client_for(
    api_key: str | None = None, anonymous: bool = False, identity: str | None = None, rest: bool = False
) -> Canister | IcCanister:
    return caller("local", "llama_cpp", api_key, anonymous, None, identity=identity, rest=rest)()


@pytest.mark.usefixtures("at_hand")
def test_which_door(monkeypatch: pytest.MonkeyPatch) -> None:
    IdentityStore().add("alice", Identity.generate().to_pem())
    assert isinstance(client_for(), IcCanister)
    assert isinstance(client_for(rest=True), Canister)
    assert isinstance(client_for(api_key="lc_flag"), Canister)
    monkeypatch.setenv("CANISTER_API_KEY", "lc_environment")
    assert isinstance(client_for(), Canister)
    assert isinstance(client_for(identity="alice"), IcCanister)
    assert isinstance(client_for(anonymous=True), IcCanister)


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(typer.BadParameter, match="either --anonymous or --api-key"):
        client_for(api_key="lc_flag", anonymous=True)
    for options in ({"rest": True}, {"anonymous": True}, {"api_key": "lc_flag"}):
        with pytest.raises(typer.BadParameter, match="--identity goes with none of"):
            client_for(identity="alice", **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("at_hand")
def test_what_prefers_rest_calls_as_the_others_do() -> None:
    def client(**options: Any) -> Canister | IcCanister:
        return caller("local", "llama_cpp", None, False, None, **{"identity": None, "prefers_rest": True, **options})()

    IdentityStore().add("alice", Identity.generate().to_pem())
    assert isinstance(client(), Canister)
    assert isinstance(client(identity="controller"), Canister)
    assert isinstance(client(identity="alice"), IcCanister)
    IdentityStore().choose("alice")
    assert isinstance(client(), IcCanister)


@pytest.mark.parametrize("command", [("estimate", "--prompt", "hi"), ("probe",), ("bench",)])
def test_who_estimates_and_measures(canister: Command, running_server: LocalServer, command: tuple[str, ...]) -> None:
    server = ("--network", running_server.url, "--data-dir", running_server.data_dir)
    alice = canister("identity", "new", "alice").out.strip()
    denied = canister(*command, *server, "--identity", "alice")
    assert denied.code == 1
    assert f"Access Denied. The call was made as {alice}." in denied.err
    assert "Access Denied" not in canister(*command, *server).err  # the controller may, whatever else stands in the way
    canister("identity", "default", "alice")
    assert alice in canister(*command, *server).err
    assert "the anonymous caller" in canister(*command, *server, "--anonymous").err


# -- settings


def settings_error(**flags: object) -> str:
    with pytest.raises(typer.BadParameter) as told:
        load_settings(**flags)
    return str(told.value)


def test_a_bad_setting_is_told_with_where_it_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(tmp_path / "canister.toml")
    assert settings_error(port=70000).startswith("--port: ")
    assert "(given: 70000)" in settings_error(port=70000)
    monkeypatch.setenv("CANISTER_PORT", "many")
    assert settings_error().startswith("CANISTER_PORT: ")
    monkeypatch.delenv("CANISTER_PORT")
    monkeypatch.setenv("CANISTER_CONTROLLER", "not a list")
    assert settings_error().startswith("CANISTER_CONTROLLER: a list is written as JSON")
    monkeypatch.delenv("CANISTER_CONTROLLER")
    for text, told in (
        ("slots = 2\nprot = 1\n", f"{file}, line 2: there is no setting 'prot'; did you mean 'port'?"),
        ("xyz = 1\n", f"{file}, line 1: there is no setting 'xyz'; docs/configuration.md lists them"),
        ("\n\nport = 70000\n", f"{file}, line 3: port: "),
        ("[canisters.one]\nport = 1\n", f"{file}, line 1: canisters: [canisters.one] port: only "),
        ("port = [", f"{file} is not TOML: "),
    ):
        Path("canister.toml").write_text(text)
        assert settings_error().startswith(told), settings_error()
    Path("canister.toml").write_text("\nport = =\n")
    assert "(at line 2, column 8)" in settings_error()
    Path("canister.toml").write_bytes(b"port = \xff\n")
    assert settings_error().startswith(f"{file} is not UTF-8: ")


def test_a_misspelt_variable_is_told_once(canister: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    settings._tell_misspelt_variables.cache_clear()
    for name in ("PROT", "URL", "CONFIG_DIR", "ID_LLAMA_CPP", "SOMETHING_ELSE"):
        monkeypatch.setenv(f"CANISTER_{name}", "x")
    monkeypatch.setenv("CANISTER_URL", "http://127.0.0.1:1")
    told = canister("status", "llama_cpp").err
    assert told.count("CANISTER_PROT is no setting and has no effect; did you mean CANISTER_PORT?") == 1
    assert told.count("is no setting") == 1
