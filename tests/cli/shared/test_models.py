"""`canister models`: listed, shown, loaded, unloaded, removed; pulled from the web and from a hub, resumed, checked."""

from __future__ import annotations

import hashlib
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from canister.cli.shared import pulling
from canister.cli.shared.pulling import RemoteFile, choose
from canister.client.local_server import LocalServer
from canister.client.transfer import TransferError
from tests.cli.conftest import Command, Done
from tests.cli.hub import Hub, serving
from tests.engine.split_models import split
from tests.engine.tiny_models import llama_model

Run = Callable[..., Done]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with LocalServer(tmp_path_factory.mktemp("models") / "data", "--slots", "1") as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("model") / "tiny.gguf", "q8_0", changes={"general.name": "Tiny"})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def models(server: LocalServer, canister: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `canister models VERB …` as the controller."""
    monkeypatch.setattr(pulling, "PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(verb: str, *arguments: object) -> Done:
        return canister("models", verb, "--network", server.url, "--api-key", server.api_key, *arguments)

    return run


@pytest.fixture
def upload(server: LocalServer, canister: Command) -> Callable[[Path, str], None]:
    def put(file: Path, name: str) -> None:
        where = ("--network", server.url, "--api-key", server.api_key, "--canister-filename", name)
        assert canister("upload", *where, file).code == 0

    return put


def test_the_life_of_a_model(models: Run, upload: Callable[[Path, str], None], model: Path, tmp_path: Path) -> None:
    assert "no models here yet: canister models pull" in models("list").out
    upload(model, "models/tiny.gguf")
    for part in split(model, 2, tmp_path, "m"):
        upload(part, f"models/{part.name}")
    head, *rows = models("list").out.splitlines()
    assert head.split() == ["MODEL", "SIZE", "KIND", "PARAMETERS", "CONTEXT"]
    assert [row.split()[0] for row in rows] == ["models/tiny.gguf", "models/m-00001-of-00002.gguf"]
    assert "llama Q8_0" in rows[0]
    assert "(2 files)" in rows[1]
    for name in ("tiny", "tiny.gguf", "models/tiny.gguf"):
        shown = models("show", name).out
        assert "title            Tiny" in shown
        assert "quantization     Q8_0" in shown
        assert "state            not loaded" in shown
    loaded = models("load", "tiny", "-c", "96", "-ctk", "q8_0")
    assert (loaded.code, loaded.out) == (0, "loaded models/tiny.gguf\n")
    told = {entry["path"]: entry["is_loaded"] for entry in json.loads(models("list", "--json").out)}
    assert told == {"models/tiny.gguf": True, "models/m-00001-of-00002.gguf": False}
    refused = models("rm", "tiny")
    assert (refused.code, "is loaded; unload it first" in refused.err) == (1, True)
    assert models("unload").out == "unloaded models/tiny.gguf\n"
    again = models("unload")
    assert (again.code, "no model is loaded" in again.err) == (1, True)
    assert models("load", "m-00001-of-00002").code == 0
    assert models("rm", "tiny").out == "removed models/tiny.gguf\n"
    assert models("rm", "--force", "m-00001-of-00002").out.splitlines() == [
        "removed models/m-00001-of-00002.gguf",
        "removed models/m-00002-of-00002.gguf",
    ]
    assert models("list").out.startswith("no models here yet")


def test_what_is_not_there_is_told(models: Run, upload: Callable[[Path, str], None], model: Path) -> None:
    assert "the canister has no model 'x'; it has none" in models("show", "x").err
    upload(model, "models/tiny.gguf")
    assert "did you mean models/tiny.gguf?" in models("load", "tiy.gguf").err
    misplaced = models("load", "tiny.gguf", "--canister", "llama_cpp")
    assert misplaced.code == 2
    assert "--canister is no flag of llama.cpp; this option stands before the model" in misplaced.err
    assert "there are models/tiny.gguf" in models("load", "nix.gguf").err
    wrong = models("load", "tiny", "--no-such-flag")
    assert (wrong.code, "--no-such-flag" in wrong.err) == (1, True)
    assert models("rm", "tiny").code == 0


def test_who_may_not(server: LocalServer, canister: Command, hub: Hub, model: Path) -> None:
    hub.files["tiny.gguf"] = model.read_bytes()
    for arguments in (("list",), ("pull", f"{hub.url}/tiny.gguf")):
        done = canister("models", arguments[0], "--network", server.url, "--anonymous", *arguments[1:])
        assert (done.code, "Access Denied" in done.err) == (1, True)
    assert hub.asked == []  # nothing is downloaded for nothing


def test_parts_are_uploaded_under_their_own_names(
    server: LocalServer, canister: Command, models: Run, model: Path, tmp_path: Path
) -> None:
    for part in split(model, 2, tmp_path, "own"):
        where = ("--network", server.url, "--api-key", server.api_key)
        assert f"uploaded models/{part.name}" in canister("upload", *where, part).out
    assert models("rm", "own-00001-of-00002").code == 0


# -- from the web


def test_a_model_from_the_web(models: Run, hub: Hub, model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    hub.files["some/tiny%20model.gguf".replace("%20", "-")] = data
    done = models("pull", "--load", f"{hub.url}/some/tiny-model.gguf")
    assert done.code == 0, done.err
    digest = hashlib.sha256(data).hexdigest()
    assert f"pulled models/tiny-model.gguf: {len(data)} bytes, sha256 {digest}" in done.out
    assert "loaded models/tiny-model.gguf" in done.out
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert models("rm", "--force", "tiny-model").code == 0


def test_a_download_that_breaks_off_goes_on(models: Run, hub: Hub, model: Path) -> None:
    data = model.read_bytes()
    hub.files["tiny.gguf"] = data
    hub.breaks = [100_000, 200_000]
    assert models("pull", f"{hub.url}/tiny.gguf").code == 0
    ranges = [span for verb, _, span in hub.asked if verb == "GET"]
    assert ranges == ["", "bytes=100000-", "bytes=300000-"]
    assert models("rm", "tiny").code == 0


def test_a_pull_that_was_given_up_goes_on_at_the_next(models: Run, hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.files["tiny.gguf"] = model.read_bytes()
    hub.breaks = [100_000, 0, 0]
    failed = models("pull", f"{hub.url}/tiny.gguf")
    assert (failed.code, "broke off after 100000 bytes" in failed.err) == (1, True)
    assert "pull again to go on" in failed.err
    hub.asked.clear()
    assert models("pull", "--keep", f"{hub.url}/tiny.gguf").code == 0
    assert [span for _, _, span in hub.asked] == ["bytes=100000-"]
    kept = tmp_path / "cache" / "llama-canister" / "models"
    assert [path.name for path in kept.iterdir()] == ["tiny.gguf"]
    assert models("rm", "tiny").code == 0


def test_another_file_under_the_same_address_begins_anew(models: Run, hub: Hub, model: Path) -> None:
    hub.files["tiny.gguf"] = b"GGUF" + bytes(300_000)
    hub.breaks = [100_000, 0, 0]
    assert models("pull", f"{hub.url}/tiny.gguf").code == 1
    hub.files["tiny.gguf"] = model.read_bytes()
    assert models("pull", f"{hub.url}/tiny.gguf").code == 0
    assert models("rm", "tiny").code == 0


def test_what_arrives_is_held_against_its_hash(models: Run, hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.files["tiny.gguf"] = model.read_bytes()
    for wrong in (("--sha256", "0" * 64), ()):
        hub.lies = None if wrong else "1" * 64
        done = models("pull", *wrong, f"{hub.url}/tiny.gguf")
        assert (done.code, "thrown away; pull it again" in done.err) == (1, True)
        assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert models("list").out.startswith("no models here yet")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("http://example.org/x.gguf", "give https://… or hf:user/repo"),
        ("ftp://x/y.gguf", "is no place of models"),
        ("qwen", "is no place of models"),
        ("https://example.org/", "does not end in a file name such as model.gguf"),
        ("hf:qwen", "looks like hf:user/repo"),
        ("hf:a/b/c", "looks like hf:user/repo"),
    ],
)
def test_what_is_no_source(models: Run, source: str, said: str) -> None:
    done = models("pull", source)
    assert (done.code, said in done.err) == (1, True), done.err


def test_what_is_no_model_is_not_uploaded_and_does_not_stay(models: Run, hub: Hub, tmp_path: Path) -> None:
    hub.files["page.gguf"] = b"<!DOCTYPE html>" + bytes(2000)
    hub.files["broken.gguf"] = b"GGUF" + bytes(2000)
    for name, said in (("page", "page.gguf is no model: Not a GGUF file"), ("broken", "broken.gguf is no model: ")):
        done = models("pull", "--keep", f"{hub.url}/{name}.gguf")
        assert (done.code, said in done.err) == (1, True), done.err
        assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert "HTTP 404" in models("pull", f"{hub.url}/none.gguf").err
    assert models("list").out.startswith("no models here yet")


@contextmanager
def answering(*answers: bytes, n_more: int = 0) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection with these bytes and n_more megabytes; its URL, and what it was asked."""
    asked: list[bytes] = []
    whole = b"".join(answers)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(65536))
            with suppress(OSError):
                self.request.sendall(whole)
                for _ in range(n_more):
                    self.request.sendall(bytes(1_000_000))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


OK = b"HTTP/1.1 200 OK\r\n"
FOUND = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n"


@pytest.mark.parametrize(
    ("answer", "said", "n_asked"),
    [
        (FOUND + b"Location: /x.gguf\r\nConnection: close\r\n\r\n", "leads nowhere", 21),
        (FOUND + b"Location: file:///etc/passwd.gguf\r\n\r\n", "leads nowhere", 1),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP 304", 1),
        (OK + b"Content-Length: -5\r\n\r\nGGUF1234", "Content-Length", 1),
        (OK + b"Content-Length: \xc2\xb2\r\n\r\nGGUF1234", "Content-Length", 1),
        (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nGGUF1234", "Content-Length", 1),
        (OK + b"Content-Length: 1000000000000000000\r\n\r\nGGUF", "the model has 1000000000000000000 bytes", 1),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nGGUF", "comes as 'gzip'", 1),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "is no HTTP", 1),
    ],
)
def test_a_server_that_lies_is_told_and_not_asked_again(
    models: Run, tmp_path: Path, answer: bytes, said: str, n_asked: int
) -> None:
    with answering(answer) as (url, asked):
        done = models("pull", f"{url}/x.gguf")
    assert (done.code, done.out) == (1, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert len(asked) == n_asked
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_body_without_end_stops_before_the_disk_is_full(
    models: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "SPARE_BYTES", 10**18)
    with answering(OK, b"\r\nGGUF", n_more=400) as (url, asked):
        done = models("pull", f"{url}/x.gguf")
    assert (done.code, "is nearly full: thrown away" in done.err) == (1, True), done.err
    assert len(asked) == 1
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_body_that_is_no_model_is_not_read_to_its_end(models: Run, tmp_path: Path) -> None:
    with answering(OK, b"\r\nG<ht", n_more=400) as (url, _):
        done = models("pull", f"{url}/x.gguf")
    assert (done.code, "Not a GGUF file, but one that begins with b'G<ht'" in done.err) == (1, True), done.err
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a%0ab.gguf", "must not have"),
        ("a%1b[31m.gguf", "must not have"),
        ("a%00.gguf", "must not have"),
        (f"{'a' * 300}.gguf", "has 305 bytes"),
        (f"{'%C3%A4' * 150}.gguf", "has 305 bytes"),
    ],
)
def test_names_that_no_file_should_have(models: Run, hub: Hub, name: str, said: str) -> None:
    done = models("pull", f"{hub.url}/{name}")
    assert (done.code, said in " ".join(done.err.split())) == (1, True), done.err
    assert "\x1b[31m" not in done.err
    assert hub.asked == []


# -- from a hub


def pull_from_hub(hub: Hub, server: LocalServer, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since huggingface_hub reads its settings when it is imported."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache / "hf"),
        "XDG_CACHE_HOME": str(cache),
        "NO_PROXY": "*",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    where = ("--network", server.url, "--api-key", server.api_key)
    command = [sys.executable, "-m", "canister", "models", "pull", *where, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def test_a_model_from_a_hub(models: Run, hub: Hub, server: LocalServer, model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    hub.files["me/tiny-GGUF/README.md"] = b"# tiny"
    hub.files["me/tiny-GGUF/tiny-Q8_0.gguf"] = data
    hub.files["me/tiny-GGUF/tiny-Q4_0.gguf"] = llama_model(tmp_path / "q4.gguf", "q4_0").read_bytes()
    done = pull_from_hub(hub, server, tmp_path, "hf:me/tiny-GGUF")
    assert done.returncode == 0, done.stderr
    assert f"pulled models/tiny-Q8_0.gguf: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}" in done.stdout
    assert "to load it: canister models load tiny-Q8_0.gguf" in done.stdout
    hub.asked.clear()
    again = pull_from_hub(hub, server, tmp_path, "hf:me/tiny-GGUF")
    assert "models/tiny-Q8_0.gguf is there already" in again.stdout
    assert all("resolve" not in path for _, path, _ in hub.asked)
    other = pull_from_hub(hub, server, tmp_path, "hf:me/tiny-GGUF:q4_0")
    assert "pulled models/tiny-Q4_0.gguf" in other.stdout, other.stderr
    for name in ("tiny-Q8_0", "tiny-Q4_0"):
        assert models("rm", name).code == 0


def test_a_download_from_a_hub_that_was_interrupted_goes_on(
    models: Run, hub: Hub, server: LocalServer, model: Path, tmp_path: Path
) -> None:
    # The library writes down 10 MB at a time; padding behind the tensors does no harm.
    hub.files["me/tiny/tiny.gguf"] = model.read_bytes().ljust(25_000_000, b"\0")
    hub.breaks = [21_500_000]
    done = pull_from_hub(hub, server, tmp_path, "hf:me/tiny")
    if done.returncode != 0:
        assert "pull again to go on" in done.stderr
        done = pull_from_hub(hub, server, tmp_path, "hf:me/tiny")
    assert done.returncode == 0, done.stderr
    ranges = [span for verb, path, span in hub.asked if verb == "GET" and "resolve" in path]
    assert ranges == ["", "bytes=20971520-"]
    assert models("rm", "tiny").code == 0


def test_all_parts_come_from_a_hub(models: Run, hub: Hub, server: LocalServer, model: Path, tmp_path: Path) -> None:
    for part in split(model, 3, tmp_path, "big-Q8_0"):
        hub.files[f"me/big/Q8_0/{part.name}"] = part.read_bytes()
    done = pull_from_hub(hub, server, tmp_path, "--load", "hf:me/big:Q8_0")
    assert done.returncode == 0, done.stderr
    assert "loaded models/big-Q8_0-00001-of-00003.gguf" in done.stdout
    assert models("rm", "--force", "big-Q8_0-00001-of-00003").code == 0


def test_what_a_hub_does_not_have(hub: Hub, server: LocalServer, tmp_path: Path) -> None:
    missing = pull_from_hub(hub, server, tmp_path, "hf:me/none")
    assert (missing.returncode, "hf:me/none: " in missing.stderr) == (1, True)
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("../../../evil.gguf", "leads out of its folder"),
        ("/tmp/evil.gguf", "leads out of its folder"),
        ("a/../../evil.gguf", "leads out of its folder"),
        ("\x1b[31mred\nline.gguf", "must not have"),
        (f"{'a' * 300}.gguf", "has 305 bytes"),
    ],
)
def test_a_hub_that_lies_about_names(hub: Hub, server: LocalServer, tmp_path: Path, place: str, said: str) -> None:
    hub.files[f"me/evil/{place}"] = b"GGUF"
    done = pull_from_hub(hub, server, tmp_path, "hf:me/evil")
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.gguf"))


def files_of(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name.rpartition("/")[2], name) for name in names]


@pytest.mark.parametrize(
    ("names", "quantization", "chosen"),
    [
        (("m.gguf",), None, ("m.gguf",)),
        (("m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-Q4_K_S.gguf"), None, ("m-Q4_K_M.gguf",)),
        (("m-Q2_K.gguf", "m-Q8_0.gguf"), None, ("m-Q8_0.gguf",)),
        (("m-q2_k.gguf", "m-q2_k_s.gguf"), "Q2_K", ("m-q2_k.gguf",)),
        (("m.F16.gguf", "mmproj-m-F16.gguf"), "f16", ("m.F16.gguf",)),
        (
            ("Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf", "m-Q2_K.gguf"),
            "Q8_0",
            ("Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"),
        ),
    ],
)
def test_which_file_is_meant(names: tuple[str, ...], quantization: str | None, chosen: tuple[str, ...]) -> None:
    assert tuple(file.place for file in choose(files_of(*names), quantization, "hf:me/m")) == chosen


@pytest.mark.parametrize(
    ("names", "quantization", "said"),
    [
        ((), None, "has no .gguf file"),
        (("m-Q2_K.gguf", "m-Q3_K_M.gguf"), None, "which of m-Q2_K.gguf, m-Q3_K_M.gguf?"),
        (("m-Q2_K.gguf",), "Q8_0", "which of m-Q2_K.gguf?"),
        (("m-00001-of-00002.gguf",), None, "has 1 of the 2 parts"),
    ],
)
def test_which_file_cannot_be_told(names: tuple[str, ...], quantization: str | None, said: str) -> None:
    with pytest.raises(TransferError) as refused:
        choose(files_of(*names), quantization, "hf:me/m")
    assert said in str(refused.value)
