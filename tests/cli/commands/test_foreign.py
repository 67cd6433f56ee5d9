"""Lines that were written for dfx and icp, as they stand after `alias dfx=canister` or `icp=canister`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from canister.api.service import candid_service
from canister.client.local_server import LocalServer
from canister.ic import principal
from canister.ic.identity import Identity
from canister.system.data_dir import LOCK, FolderLock
from tests.cli.conftest import Command, Done

ID = principal.canister_id(0)
STATUS = f"'(record {{ canister_id = principal \"{ID}\" }})'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """One whose canisters may be stopped."""
    with LocalServer(tmp_path_factory.mktemp("foreign")) as server:
        yield server


@pytest.fixture
def run(canister: Command, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A line, with `dfx` or `icp` in front."""
    monkeypatch.setenv("CANISTER_URL", server.url)
    monkeypatch.setenv("CANISTER_DATA_DIR", str(server.data_dir))

    def run(line: str) -> Done:
        name, *arguments = shlex.split(line)
        assert name in ("dfx", "icp", "canister")
        return canister(*arguments)

    return run


@pytest.fixture
def controller(server: LocalServer) -> str:
    return Identity.from_pem((server.data_dir / "controller.pem").read_bytes()).principal


@pytest.mark.parametrize(
    ("line", "out", "err"),
    [
        ("icp network ping --environment local", '"replica_health_status": "healthy"', ""),
        ("dfx ping", '"root_key": [', ""),
        ("dfx ping local --wait-healthy", '"ic_api_version"', ""),
        ("icp network start -d", "", "a server runs on {folder} already"),
        ("dfx start --clean --background", "", "--clean deletes nothing here; all state is in {folder}"),
        ("icp deploy -e local -y", f"llama_cpp {ID}", "nothing to deploy: every canister of a server runs the same"),
        ("dfx deploy llama_cpp -m upgrade --network local", f"llama_cpp {ID}", "nothing to deploy"),
        ("dfx build llama_cpp", "", "nothing to build"),
        ("dfx canister create --all", f"llama_cpp {ID}", "these canisters are there"),
        ("dfx canister create llama_cpp", f"llama_cpp {ID}", "these canisters are there"),
        ("dfx canister install llama_cpp --mode reinstall -y", "", "nothing to install"),
        ("icp canister metadata llama_cpp candid:service --environment local", "service : {", ""),
        ("icp canister list", f"llama_cpp {ID}", ""),
        ("dfx canister --network local call llama_cpp health", "status_code = 200", ""),
        ("dfx canister --network=local call llama_cpp health", "status_code = 200", ""),
        ("dfx --network local canister --identity anonymous call llama_cpp whoami", "2vxsx-fae", ""),
        ("dfx --identity anonymous canister call llama_cpp whoami", "2vxsx-fae", ""),
        ("dfx --identity controller canister call llama_cpp whoami", "{controller}", ""),
        ("dfx -qq canister -v call llama_cpp whoami '()' --output idl", "{controller}", ""),
        ("dfx canister --network local status llama_cpp", "Canister Id: " + ID, ""),
        ("dfx canister --network local id llama_cpp", ID, ""),
        ("dfx canister update-settings llama_cpp --add-controller aaaaa-aa", "", "changed controllers"),
        ("dfx canister update-settings llama_cpp --remove-controller aaaaa-aa", "", "changed controllers"),
        ("icp canister settings show llama_cpp -e local", "Controllers: {controller}", ""),
        ("dfx canister info llama_cpp", "Controllers: {controller}\nModule hash: 0x", ""),
        ("canister info llama_cpp", "Module hash: 0x", ""),
        ("dfx canister stop llama_cpp", "", "stopped llama_cpp"),
        ("dfx canister start llama_cpp", "", "started llama_cpp"),
        ("dfx canister stop --all", "", "stopped llama_cpp"),
        ("dfx canister start --all", "", "started llama_cpp"),
        ("canister stop llama_cpp", "", "stopped llama_cpp"),
        ("canister start llama_cpp", "", "started llama_cpp"),
        ("dfx canister deposit-cycles 1000 llama_cpp", "", "gave llama_cpp 1,000 cycles"),
        ("dfx --identity controller ledger fabricate-cycles --canister llama_cpp --t 1", "", "gave llama_cpp"),
        ("dfx ledger balance", "0.00000000 ICP", "callers hold no cycles here"),
        ("icp cycles balance", "0.000 TC", "canister top-up NAME"),
        (f"dfx canister call aaaaa-aa canister_status {STATUS}", "status = variant { running }", ""),
        (f"dfx canister call --query aaaaa-aa canister_status {STATUS}", "status = variant { running }", ""),
        (f"dfx canister call aaaaa-aa start_canister {STATUS}", "()", ""),
        (f'dfx canister call aaaaa-aa canister_status \'{{"canister_id": "{ID}"}}\'', '"status": "running"', ""),
        ("dfx canister call llama_cpp health --with-cycles 0", "status_code = 200", ""),
        ("dfx identity get-principal", "{controller}", ""),
        ("dfx --identity anonymous identity get-principal", "2vxsx-fae", ""),
        ("dfx identity whoami", "controller", ""),
        ("dfx --identity alice identity whoami", "alice", ""),
        ("dfx identity use anonymous", "", "anonymous is the default identity now"),
        ("dfx identity list", "anonymous", ""),
        ("dfx --version", "llama-canister ", ""),
        ("icp --version", "interface 0.16", ""),
        ("canister version", "llama.cpp of llama-cpp-python ", ""),
        ("canister version --json", '"interface": "0.16"', ""),
        ("canister candid", "service : {", ""),
        ("dfx canister candid", "service : {", ""),
    ],
)
def test_a_line_that_works(run: Command, server: LocalServer, controller: str, line: str, out: str, err: str) -> None:
    told = {"controller": controller, "folder": server.data_dir}
    for name, value in told.items():
        line, out, err = (text.replace(f"{{{name}}}", str(value)) for text in (line, out, err))
    done = run(line)
    assert done.code == 0, done.err
    assert out in done.out
    assert bool(out) == bool(done.out), done.out
    assert err in done.err
    assert bool(err) == bool(done.err), done.err


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("dfx canister --ic call llama_cpp health", 2, "'local', a URL like"),
        ("dfx canister call --ic llama_cpp health", 2, "the Internet Computer itself is reached with icp or dfx"),
        ("dfx canister call llama_cpp health --ic", 2, "not 'ic'"),
        ("dfx --network ic identity whoami", 2, "not 'ic'"),
        ("dfx canister --playground status llama_cpp", 2, "not 'playground'"),
        ("icp canister status llama_cpp -e ic", 2, "an environment is 'local' here, not 'ic'"),
        ("icp -e staging identity list", 2, "an environment is 'local' here, not 'staging'"),
        ("dfx ping ic", 2, "not 'ic'"),
        ("dfx stop --network ic", 2, "not 'ic'"),
        ("icp network stop http://10.0.0.1:1", 2, "is started and stopped where it runs"),
        ("dfx canister stop", 2, "name a canister, or all of them with --all"),
        ("dfx canister info nobody", 1, "'nobody' not found. This server has: llama_cpp."),
        ("dfx canister create other", 1, "canister serve --canister llama_cpp --canister other"),
        ("dfx deploy other", 1, "this server has no canister 'other', but llama_cpp"),
        ("icp canister metadata llama_cpp dfx", 2, "it has candid:service"),
        ("dfx canister call --wallet aaaaa-aa llama_cpp health", 2, "there are no wallets here"),
        ("dfx canister call llama_cpp health --with-cycles 5t", 2, "canister top-up llama_cpp --amount 5t"),
        ("dfx canister call aaaaa-aa canister_stat", 2, "it has canister_status, update_settings"),
        ("dfx canister call aaaaa-aa install_code", 2, "every canister of this server runs the same program"),
        ("dfx canister call aaaaa-aa canister_status", 2, "takes an argument: (record {"),
        ("dfx canister call aaaaa-aa canister_status '{}'", 2, "field canister_id: Field required"),
        (f"dfx --identity anonymous canister call aaaaa-aa canister_status {STATUS}", 1, "Only controllers of"),
        ("dfx canister request-status 0x12 llama_cpp", 2, "is no id of a request"),
        ("dfx canister delete llama_cpp", 1, "must be stopped before it is deleted"),
        ("dfx nonsense", 2, "No such command 'nonsense'"),
        ("dfx --network local nonsense", 2, "No such command 'nonsense'"),
    ],
)
def test_a_line_that_is_refused_in_a_sentence(run: Command, line: str, code: int, told: str) -> None:
    done = run(line)
    assert (done.code, done.out) == (code, "")
    assert told in " ".join(done.err.split())


def test_the_interface_is_the_one_that_agents_fetch(run: Command) -> None:
    assert run("icp canister metadata llama_cpp candid:service -e local").out == candid_service()


def test_a_call_that_is_not_waited_for(run: Command) -> None:
    request = run("dfx canister call --async llama_cpp log_resume")
    assert request.code == 0, request.err
    assert request.out.startswith("0x")
    answer = run(f"dfx canister request-status {request.out.strip()} llama_cpp")
    assert (answer.code, answer.out) == (0, run("dfx canister call llama_cpp log_resume --output raw").out)
    trapped = run("dfx canister call --async aaaaa-aa stop_canister '()'")
    assert trapped.code == 2


def test_the_key_of_the_controller(canister: Command, run: Command, server: LocalServer, tmp_path: Path) -> None:
    assert run("canister key").out == f"{server.api_key}\n"
    done = canister("key", "--data-dir", tmp_path / "none")
    assert (done.code, done.out) == (1, "")
    assert "the first start of `canister serve` makes it" in done.err
    assert not (tmp_path / "none").exists()


def test_none_of_these_lines_is_in_a_help(canister: Command) -> None:
    for group in ((), ("identity",), ("network",), ("settings",)):
        shown = canister(*group, "--help").out
        for word in ("deploy", "get-principal", "ping", "whoami", "show "):
            assert word not in shown.partition("Commands:")[2]


# -- a server in the background


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """The command as a process of its own, with a data folder of its own; no server is left behind."""
    environment = {**os.environ, "CANISTER_DATA_DIR": str(tmp_path / "data"), "CANISTER_PORT": "0"}

    def run(*arguments: object) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "canister", *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    yield run
    run("stop")


@pytest.mark.parametrize(("start", "stop"), [("start --background", "stop"), ("network start -d", "network stop")])
def test_start_and_stop(command: Command, tmp_path: Path, start: str, stop: str) -> None:
    started = command(*start.split())
    assert (started.code, started.out) == (0, ""), started.err
    url = started.err.split()[4].rstrip(";")
    assert httpx.get(f"{url}/healthz").is_success
    assert "runs on" in command(*start.split()).err
    who = command("identity", "get-principal").out.strip()
    assert command("call", "llama_cpp", "whoami", "--network", url).out == f'("{who}")\n'
    lock = FolderLock(tmp_path / "data" / LOCK)
    assert lock.holder() is not None
    stopped = command(*stop.split())
    assert (stopped.code, stopped.err) == (0, f"stopped the server of {tmp_path / 'data'}\n")
    assert lock.holder() is None
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
    assert command(*stop.split()).err == f"no server runs on {tmp_path / 'data'}\n"


def test_a_server_that_cannot_start_is_told(command: Command, server: LocalServer) -> None:
    done = command("start", "--background", "--host", server.url.removeprefix("http://"))
    assert done.code == 1
    assert "canister serve ended with 1" in done.err
    assert "is in use" in done.err
    assert command("start", "--host", "127.0.0.1:many").code == 2


def test_json_of_ping(run: Command, server: LocalServer) -> None:
    told = json.loads(run("icp network ping").out)
    assert bytes(told["root_key"]).hex() in run("icp network status").out
