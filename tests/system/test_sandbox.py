"""The kernel stops what a fault in our own paths would do; each test is a process of its own, aimed at decoys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.system import sandbox
from tests.processes import text_of

HAS_LANDLOCK = sandbox.abi() >= sandbox.MIN_ABI
needs_landlock = pytest.mark.skipif(not HAS_LANDLOCK, reason="this kernel has no Landlock, or one that is too old")

# Tries each deed, and says which error it met.
TRY = """
import json, os, socket, subprocess, sys, threading
from pathlib import Path
from canister.system import sandbox
inside, outside = Path(sys.argv[2]), Path(sys.argv[3])

def tell(deeds):
    met = {}
    for name, deed in deeds.items():
        try:
            deed()
            met[name] = None
        except OSError as error:
            met[name] = error.strerror
    return met

def in_thread(deed):
    met = {}
    thread = threading.Thread(target=lambda: met.update(tell({"it": deed})))
    thread.start()
    thread.join()
    if met["it"]:
        raise OSError(1, met["it"])

def connect():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 5).close()

def by_child():
    if subprocess.run(["touch", str(outside / "by-child")], stderr=subprocess.DEVNULL).returncode:
        raise OSError(1, "the child failed")
"""
SERVER = (
    TRY
    + """
if sys.argv[1] == "confined":
    assert sandbox.confine_server([inside]).is_on
print(json.dumps(tell({
    "write inside": lambda: (inside / "file").write_bytes(b"x"),
    "folder inside": lambda: (inside / "folder").mkdir(),
    "move inside": lambda: (inside / "file").rename(inside / "folder" / "file"),
    "remove inside": lambda: (inside / "folder" / "file").unlink(),
    "write to null": lambda: Path("/dev/null").write_bytes(b"x"),
    "read outside": lambda: (outside / "decoy").read_bytes(),
    "write outside": lambda: (outside / "new").write_bytes(b"x"),
    "overwrite outside": lambda: (outside / "decoy").write_bytes(b"x"),
    "truncate outside": lambda: os.truncate(outside / "truncated", 0),
    "through dots": lambda: (inside / ".." / "outside" / "dots").write_bytes(b"x"),
    "through a link": lambda: (inside / "link" / "linked").write_bytes(b"x"),
    "folder outside": lambda: (outside / "folder").mkdir(),
    "link outside": lambda: os.symlink("/", outside / "root"),
    "move out": lambda: (inside / "link2").rename(outside / "moved"),
    "in a thread": lambda: in_thread(lambda: (outside / "thread").write_bytes(b"x")),
    "in a child": by_child,
    "connect": connect,
    "remove outside": lambda: (outside / "removed").unlink(),
    "remove folder outside": lambda: (outside / "empty").rmdir(),
})))
"""
)
TRIAL = (
    TRY
    + """
import resource
if sys.argv[1] == "confined":
    sandbox.confine_trial([inside])
print(json.dumps(tell({
    "read inside": lambda: (inside / "decoy").read_bytes(),
    "read outside": lambda: (outside / "decoy").read_bytes(),
    "list outside": lambda: os.listdir(outside),
    "write inside": lambda: (inside / "new").write_bytes(b"x"),
    "write outside": lambda: (outside / "new").write_bytes(b"x"),
    "socket": lambda: socket.socket().close(),
    "unix socket": lambda: socket.socketpair(),
    "program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
})))
"""
)


def attempt(code: str, tmp_path: Path, grade: str) -> dict[str, str | None]:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside, outside / "empty"):
        folder.mkdir()
    for decoy in (inside / "decoy", outside / "decoy", outside / "removed", outside / "truncated"):
        decoy.write_bytes(b"decoy")
    (inside / "link").symlink_to(outside)
    (inside / "link2").symlink_to(outside)
    command = [sys.executable, "-c", code, grade, str(inside), str(outside)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    met: dict[str, str | None] = json.loads(done.stdout)
    return met


@needs_landlock
def test_a_server_writes_only_where_it_may(tmp_path: Path) -> None:
    met = attempt(SERVER, tmp_path, "confined")
    allowed = {name for name, error in met.items() if error is None}
    assert allowed == {
        *("write inside", "folder inside", "move inside", "remove inside", "write to null", "read outside")
    }
    outside = tmp_path / "outside"
    assert {path.name: path.read_bytes() for path in outside.iterdir() if path.is_file()} == {
        "decoy": b"decoy",
        "removed": b"decoy",
        "truncated": b"decoy",
    }
    assert (outside / "empty").is_dir()


def test_all_of_it_is_possible_without(tmp_path: Path) -> None:
    """What the test above sees is the work of the confinement."""
    assert set(attempt(SERVER, tmp_path, "free").values()) == {None}


@needs_landlock
def test_a_trial_reads_one_file_and_does_nothing_else(tmp_path: Path) -> None:
    met = attempt(TRIAL, tmp_path, "confined")
    assert {name for name, error in met.items() if error is None} == {"read inside"}


@needs_landlock
@pytest.mark.parametrize("grade", ["server", "trial"])
def test_graphics_cards_stay_within_reach(tmp_path: Path, grade: str) -> None:
    code = (
        TRY
        + """
sandbox._DEVICE_NODES = ("zer*", "no-such-card")
if sys.argv[1] == "server":
    sandbox.confine_server([inside])
else:
    sandbox.confine_trial([inside], sandbox.device_nodes())
print(json.dumps(tell({
    "a card": lambda: open("/dev/zero", "rb+", buffering=0).write(b"x"),
    "another device": lambda: open("/dev/full", "rb+", buffering=0).close(),
})))
"""
    )
    met = attempt(code, tmp_path, grade)
    assert met["a card"] is None
    assert met["another device"] is not None


def test_a_process_may_do_all_that_without(tmp_path: Path) -> None:
    assert set(attempt(TRIAL, tmp_path, "free").values()) == {None}


@needs_landlock
def test_where_threads_run_already_it_says_so(tmp_path: Path) -> None:
    code = (
        "import sys, threading, pathlib; from canister.system import sandbox; "
        "threading.Thread(target=threading.Event().wait, daemon=True).start(); "
        "print(sandbox.confine_server([pathlib.Path(sys.argv[1])]).reason)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "2 threads run already" in done.stdout


def test_without_landlock_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "_state", None)
    for version, words in ((0, "has no Landlock"), (1, "too old")):
        monkeypatch.setattr(sandbox, "abi", lambda version=version: version)
        assert words in sandbox.confine_server([tmp_path]).reason
        assert not sandbox.state().is_on


@needs_landlock
def test_a_running_server_is_confined_whole(tmp_path: Path) -> None:
    """Every thread of it; it says so; and it works: calls write, a model is put in place and tried, it restarts."""
    with LocalServer(tmp_path / "data") as server:
        headers = {"Authorization": f"Bearer {server.api_key}"}
        assert "canister_confined 1.0" in httpx.get(f"{server.url}/metrics", headers=headers).text
        url = f"{server.url}/canisters/llama_cpp/files/some/file"
        assert httpx.put(url, content=b"x", headers=headers).status_code == 200
        assert (tmp_path / "data").stat().st_mode & 0o077 == 0
        statuses = [status for path in Path(f"/proc/{server.pid}/task").glob("*/status") if (status := text_of(path))]
        assert len(statuses) > 1
        assert all("NoNewPrivs:\t1" in status for status in statuses)
    assert "the kernel refuses writes elsewhere" in (tmp_path / "data" / "serve.err").read_text()
    with LocalServer(tmp_path / "data", "--no-confine") as server:
        assert httpx.get(f"{server.url}/canisters/llama_cpp/files/some/file", headers=headers).content == b"x"
        assert "canister_confined 0.0" in httpx.get(f"{server.url}/metrics", headers=headers).text
