"""`canister status`, `settings update`, `top-up`, `id`, `network status`, in the words of icp and dfx."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from canister.cli.shared import amounts
from canister.cli.shared.status_view import duration, size
from canister.client.local_server import LocalServer
from canister.ic import cbor, principal
from canister.ic.certificate import RootKey
from canister.ic.identity import Identity
from tests.cli.conftest import Command, Done
from tests.engine import tiny_models

ID = principal.canister_id(0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """One whose settings may be changed."""
    with LocalServer(tmp_path_factory.mktemp("managed")) as server:
        yield server


@pytest.fixture
def run(canister: Command, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command line as it stands after `alias icp=canister`, as the controller."""
    monkeypatch.setenv("CANISTER_URL", server.url)
    monkeypatch.setenv("CANISTER_DATA_DIR", str(server.data_dir))

    def run(line: str) -> Done:
        return canister(*line.split())

    return run


def controller(server: LocalServer) -> str:
    return Identity.from_pem((server.data_dir / "controller.pem").read_bytes()).principal


@pytest.mark.parametrize(
    "line",
    [
        "id llama_cpp",
        "canister id llama_cpp --network local",
        "canister status llama_cpp --id-only",
        "canister status llama_cpp -e local -i",
        "canister status llama_cpp --id-only --project-root-override /tmp --environment local --identity anonymous",
    ],
)
def test_the_id(run: Command, line: str) -> None:
    done = run(line)
    assert (done.code, done.out, done.err) == (0, f"{ID}\n", "")


def test_a_canister_that_is_not_there(run: Command) -> None:
    for line in ("id nobody", "status nobody", "top-up nobody --amount 1"):
        done = run(line)
        assert (done.code, done.out) == (1, "")
        assert "'nobody' not found. This server has: llama_cpp." in done.err


def test_status(run: Command, server: LocalServer) -> None:
    done = run("canister status llama_cpp")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[:4] == [
        f"Canister Id: {ID}",
        "Canister Name: llama_cpp",
        "Canister Status Report:",
        "  Status: Running",
    ]
    assert f"  Controllers: {controller(server)}" in lines
    assert any(line.startswith("  Cycles: ") for line in lines)
    assert lines[4:7] == ["  Engine:", "    Model: none", "    Reason: none"]
    assert "      Instruction limit: 40_000_000_000" in lines
    assert "      Who: Only controllers" in lines
    assert any(line.startswith("    Uptime seconds: ") for line in lines)
    document = json.loads(run("canister status llama_cpp --json").out)
    assert (document["id"], document["name"], document["status"]) == (ID, "llama_cpp", "Running")
    assert document["settings"]["controllers"] == [controller(server)]


def test_status_in_a_few_lines(run: Command, server: LocalServer) -> None:
    lines = run("canister status llama_cpp --short").out.splitlines()
    assert lines[0].startswith(f"llama_cpp ({ID}): running, up for ")
    assert lines[1:] == [
        "model        none is loaded; canister upload FILE puts one in, canister models load NAME loads it",
        "limits       of a call: any number of tokens, any number in queries; "
        "40,000,000,000 instructions, 5,000,000,000 in queries",
        "access       0: only controllers may chat",
    ]
    stranger = run("canister status llama_cpp --short --identity anonymous").out
    assert controller(server) in stranger
    assert "model" not in stranger.splitlines()[0]


LOAD = '{"args": ["--model", "models/small.gguf", "--n-gpu-layers", "all", "--main-gpu", "0"]}'


def test_status_of_a_loaded_model(canister: Command, tmp_path: Path) -> None:
    model = tiny_models.llama_model(tmp_path / "small.gguf", "q8_0")
    with LocalServer(tmp_path / "server") as server:
        where = ("--network", server.url, "--data-dir", server.data_dir)
        options = ("status", "llama_cpp", *where)
        assert canister("upload", model, "--canister-filename", "models/small.gguf", *where).code == 0
        loaded = canister("call", "llama_cpp", "load_model", LOAD, *where)
        assert loaded.code == 0, loaded.err
        short = canister(*options, "--short").out
        assert f"model        models/small.gguf, {size(model.stat().st_size)}: llama" in short
        for title in ("context", "exact", "devices", "threads", "limits", "access", "now"):
            assert f"\n{title} " in short
        lines = canister(*options).out.splitlines()
        assert lines[4:7] == ["  Engine:", "    File:", "      Name: models/small.gguf"]
        assert {"    Devices:", "          Kind: cpu"} <= set(lines)
        assert lines.index("  Engine:") < lines.index("  Memory metrics:")


@pytest.mark.parametrize(
    ("seconds", "text"), [(4, "4 s"), (725, "12 min"), (11_120, "3 h 5 min"), (792_000, "9 d 4 h")]
)
def test_durations(seconds: int, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("n_bytes", "text"), [(871, "871 bytes"), (2_400_000, "2.4 MB"), (5_030_000_000, "5.03 GB")])
def test_sizes(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text


def test_what_is_no_model_does_not_take_the_place_of_one(run: Command, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# A text\n")
    for line in ("upload README.md", "upload README.md --canister-filename models/other.gguf"):
        done = run(line)
        assert (done.code, done.out) == (2, "")
        told = " ".join(done.err.split())
        assert "README.md is not a GGUF file (it begins with b'# A ')" in told
        assert "--filetype other uploads it under its own name" in told
    (tmp_path / "empty.gguf").touch()
    assert "begins with b''" in run("upload empty.gguf").err
    assert run("upload README.md --filetype other").out.startswith("uploaded README.md: 9 bytes")
    assert run("upload README.md --canister-filename notes.txt").out.startswith("uploaded notes.txt: 9 bytes")


def test_a_file_that_is_replaced_is_told(run: Command, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiny_models.llama_model(tmp_path / f"{name}.gguf", "q8_0")
    with (tmp_path / "two.gguf").open("r+b") as two:
        two.seek(-32, os.SEEK_END)
        two.write(bytes(32))
    assert run("upload one.gguf --canister-filename models/m.gguf").err.count("it is replaced") == 0
    assert run("upload one.gguf --canister-filename models/m.gguf").err.count("it is replaced") == 0  # the same file
    told = run("upload two.gguf --canister-filename models/m.gguf").err
    size = (tmp_path / "one.gguf").stat().st_size
    assert f"models/m.gguf is in the canister already, another file of {size} bytes, sha256 " in told
    assert "It is the loaded model" not in told
    assert run('call llama_cpp load_model (record{args=vec{"--model";"models/m.gguf"}})').code == 0
    told = run("upload one.gguf --canister-filename models/m.gguf").err
    assert "It is the loaded model: chats go on with what is loaded until load_model, or a restart" in told


def test_status_for_who_does_not_control_it(run: Command, server: LocalServer) -> None:
    for line in ("status llama_cpp --identity anonymous", f"status {ID} --identity anonymous"):
        done = run(line)
        assert done.code == 0, done.err
        assert f"  Controllers: {controller(server)}" in done.out
        assert "Cycles" not in done.out
        assert "Engine" not in done.out


def test_top_up(run: Command) -> None:
    def cycles() -> int:
        return int(json.loads(run("status llama_cpp --json").out)["cycles"])

    for line, given in (
        ("canister top-up llama_cpp --amount 20000000000000 -e local --identity controller", 20 * 10**12),
        ("canister top-up --amount 1.5t llama_cpp", 15 * 10**11),
        ("canister deposit-cycles 5_000_000_000 llama_cpp", 5 * 10**9),
        ("ledger fabricate-cycles --canister llama_cpp --t 2", 2 * 10**12),
        ("ledger fabricate-cycles --canister llama_cpp", 10 * 10**12),
    ):
        before = cycles()
        done = run(line)
        assert (done.code, done.out) == (0, ""), done.err
        assert f"gave llama_cpp {given:,} cycles" in done.err
        assert abs(cycles() - before - given) < 10**9  # a call costs something itself


@pytest.mark.parametrize("limit", ["4026531840", "3.75gib", "3.75GiB"])
def test_settings_update(run: Command, limit: str) -> None:
    line = f"canister settings update llama_cpp --wasm-memory-limit {limit} -e local --identity controller"
    done = run(line)
    assert (done.code, done.out) == (0, ""), done.err
    assert "  Wasm memory limit: 4_026_531_840\n" in run("status llama_cpp").out


def test_other_settings(run: Command) -> None:
    done = run("settings update llama_cpp --freezing-threshold 30d --reserved-cycles-limit 5t --log-visibility public")
    assert done.code == 0, done.err
    settings = json.loads(run("status llama_cpp --json").out)["settings"]
    assert (settings["freezing_threshold"], settings["reserved_cycles_limit"]) == (2_592_000, 5 * 10**12)
    assert settings["log_visibility"] == "public"


def test_controllers(run: Command, server: LocalServer) -> None:
    def controllers() -> list[str]:
        found: list[str] = json.loads(run("status llama_cpp --json --identity controller").out)["settings"][
            "controllers"
        ]
        return found

    own = controller(server)
    alice = run("identity new alice").out.strip()
    assert run("settings update llama_cpp --add-controller alice").code == 0
    assert controllers() == sorted([own, alice])
    assert run("settings update llama_cpp --wasm-memory-limit 4gib --identity alice").code == 0
    done = run("settings update llama_cpp --remove-controller controller")
    assert done.code == 2
    assert "--force" in done.err
    assert controllers() == sorted([own, alice])
    assert run(f"settings update llama_cpp --remove-controller {alice}").code == 0
    assert controllers() == [own]
    done = run("settings update llama_cpp --wasm-memory-limit 4gib --identity alice")
    assert (done.code, done.out) == (1, "")
    assert f"Only controllers of canister {ID} can call ic00 method update_settings" in done.err


def test_wrong_usage(run: Command) -> None:
    for line, what in (
        ("settings update llama_cpp", "nothing is to be changed"),
        ("settings update llama_cpp --wasm-memory-limit much", "a whole number of bytes"),
        ("settings update llama_cpp --set-controller aaaaa-aa --add-controller aaaaa-aa", "either --set-controller"),
        ("top-up llama_cpp --amount -5", "a whole number of cycles"),
        ("status llama_cpp --root-key xyz", "not hex"),
    ):
        done = run(line)
        assert (done.code, done.out) == (2, ""), line
        assert what in " ".join(done.err.replace("│", " ").split()), done.err


def test_network_status(run: Command, server: LocalServer) -> None:
    root_key = cbor.decode(httpx.get(f"{server.url}/api/v2/status").content)["root_key"].hex()  # type: ignore[index,union-attr]
    for line in ("network status", "network status local -e local"):
        done = run(line)
        assert done.code == 0, done.err
        assert done.out.startswith(f"Api Url: {server.url}\nGateway Url: {server.url}\nRoot Key: {root_key}\n")
    document = json.loads(run("network status --json").out)
    assert (document["api_url"], document["root_key"]) == (server.url, root_key)
    assert run(f"status llama_cpp --root-key {root_key}").code == 0
    done = run(f"status llama_cpp -k {RootKey.generate().public_key_der.hex()}")
    assert (done.code, done.out) == (1, "")
    assert "certificate that does not hold" in done.err


def test_no_server(canister: Command) -> None:
    for line in (["network", "status"], ["status", "llama_cpp"], ["id", "llama_cpp"]):
        done = canister(*line, "--network", "http://127.0.0.1:1")
        assert (done.code, done.out) == (1, "")
        assert "No answer from http://127.0.0.1:1" in done.err


@pytest.mark.parametrize(
    ("text", "amount"), [("7", 7), ("1_000", 1000), ("20T", 20 * 10**12), ("0.5 k", 500), ("1.25m", 1_250_000)]
)
def test_amounts(text: str, amount: int) -> None:
    assert amounts.cycles(text, "--amount") == amount


@pytest.mark.parametrize("text", ["", "t", "-1", "1e3", "1.5", "0.0001k", "5x", "١"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(Exception, match="--amount is a whole number of cycles"):
        amounts.cycles(text, "--amount")


def test_the_did(canister: Command, tmp_path: Path) -> None:
    done = canister("canister", "candid")
    assert done.code == 0
    assert "service : {" in done.out


def test_the_only_canister_needs_no_name(run: Command) -> None:
    named = run("status llama_cpp --short")
    assert run("status --short").out.splitlines()[0] == named.out.splitlines()[0]
    assert run("status --id-only").out == f"{ID}\n"


def test_several_canisters_need_a_name(canister: Command, tmp_path: Path) -> None:
    with LocalServer(tmp_path / "two", "--canister", "one", "--canister", "two") as server:
        done = canister("status", "--network", server.url)
    assert done.code == 2
    assert "which canister? This server has: one, two." in done.err


def test_the_hash_of_the_interface_is_the_same_everywhere(run: Command) -> None:
    told = [line for line in run("canister info llama_cpp").out.splitlines() if line.startswith("Module hash: 0x")]
    assert len(told) == 1
    assert told[0] in run("status llama_cpp").out


@pytest.mark.parametrize("line", ["ps", "chats list", "models list"])
def test_whose_key_it_is_that_another_default_identity_asks_with(run: Command, line: str) -> None:
    assert run(line).err == ""
    run("identity new alice")
    run("identity default alice")
    done = run(line)
    assert done.code == 0
    assert done.err.startswith("canister: asked with the key of the server's own identity; alice cannot be used here")
    assert done.err.count("\n") == 1
    assert run("status llama_cpp --short").err == ""
