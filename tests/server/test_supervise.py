"""`canister serve` as a parent and its child, both real processes: what ends the child is not felt for long."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from canister.cli import main
from canister.client.local_server import LocalServer, ServerFailed
from canister.config import Settings, settings_from_json
from canister.engine.crash_notes import BUSY_NAME, MAX_IN_A_ROW
from canister.ops.doctor import examine
from canister.server import supervisor
from canister.server.sockets import bind
from canister.server.supervisor import exit_code, how, pause_seconds
from canister.system import data_dir
from canister.system.data_dir import CRASH, LAST_CRASH
from tests.harness import CHAT_MODEL
from tests.processes import is_there
from tests.smoke.conftest import Wire
from tests.traces import SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

MODEL = ("-m", str(CHAT_MODEL), "--slots", "3", "--threads", "1", "--instruction-limit", "none")
OFTEN = ("--max-crashes", "100")
PROMPT = "<|im_start|>user\nPlease tell me a story{}.<|im_end|>\n<|im_start|>assistant\n"


def supervised(folder: Path, *flags: str) -> LocalServer:
    return LocalServer(folder, "--supervise", *flags)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def child_of(server: LocalServer, *, other_than: int = 0) -> int:
    """The server process, once there is one."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [child for child in children(server.pid) if child != other_than and is_there(child)]
        return bool(found)

    wait_for(look, "no server was started")
    return found[0]


@contextmanager
def wire_to(server: LocalServer) -> Iterator[Wire]:
    wire = Wire(server.url, "llama_cpp", server.api_key)
    with wire.http:
        yield wire


def readiness(wire: Wire) -> tuple[int, str]:
    """/readyz as a controller sees it; 0 while nobody answers."""
    try:
        response = httpx.get(str(wire.http.base_url.join("/readyz")), headers=wire.http.headers, trust_env=False)
    except httpx.HTTPError:
        return 0, ""
    return response.status_code, response.text


def wait_until_ready(wire: Wire) -> None:
    wait_for(lambda: readiness(wire)[0] == 200, "the server did not become ready")


def settled(wire: Wire) -> tuple[int, str]:
    """/readyz when models are loaded, or are not going to be."""
    wait_for(lambda: readiness(wire)[0] != 0 and "is being" not in readiness(wire)[1], "it is still loading")
    return readiness(wire)


# -- crashes under chats


class Chats:
    """Three chats that go on and on, whatever happens to the server, and check every text that they get."""

    def __init__(self, names: list[str], whole: dict[str, str]) -> None:
        self.names, self.whole = names, whole
        self.stop = threading.Event()
        self.n_answered = dict.fromkeys(names, 0)
        self.answered = threading.Condition()
        self.last_at = 0.0

    def talk(self, server: LocalServer, name: str) -> None:
        with wire_to(server) as wire:
            self._talk(wire, name)

    def _talk(self, wire: Wire, name: str) -> None:
        cache = ("--prompt-cache", name, "--prompt-cache-all", "-sp", "--ignore-eos")
        sampling = ("--temp", "0.9", "--seed", name.rpartition("-")[2])
        known = 0  # tokens that the chat has for certain
        while not self.stop.is_set():
            try:
                begins = known == 0 or known > 150
                record = wire.run(*cache, *sampling, "-p", PROMPT.format(f" of {name}") if begins else "")
            except httpx.HTTPError:
                time.sleep(0.005)
                continue
            # What was acknowledged is there, and the text is the one that the chat gets without crashes.
            assert record["n_prompt_tokens_cached"] >= min(known, record["n_prompt_tokens"])
            text = record["conversation"]
            n_both = min(len(text), len(self.whole[name]))
            assert text[:n_both] == self.whole[name][:n_both]
            unfinished = record["n_prompt_tokens_remaining"] > 0
            known = 0 if unfinished else record["n_prompt_tokens"] + record["n_tokens_generated"]
            with self.answered:
                self.n_answered[name] += 1
                self.last_at = time.monotonic()
                self.answered.notify_all()

    def wait_for_answer(self, since: float) -> float:
        """Seconds from then on until the first call was answered."""
        with self.answered:
            assert self.answered.wait_for(lambda: self.last_at > since, SECONDS), "no chat goes on"
            return self.last_at - since

    def wait_for_all(self) -> None:
        """Until each of them was answered once more."""
        with self.answered:
            goal = {name: n + 1 for name, n in self.n_answered.items()}
            assert self.answered.wait_for(lambda: all(self.n_answered[name] >= goal[name] for name in goal), SECONDS)


@pytest.mark.parametrize(
    ("n_kills", "signals", "seconds_apart", "flags"),
    [
        (3, (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL), 0.0, OFTEN),
        pytest.param(10, (signal.SIGILL, signal.SIGBUS, signal.SIGFPE), 0.0, OFTEN, marks=pytest.mark.nightly),
        # As it is by default, with no more crashes than that allows.
        pytest.param(20, (signal.SIGSEGV,), 15.1, (), marks=[pytest.mark.nightly, pytest.mark.timeout(3600)]),
    ],
    ids=["3", "10", "20"],
)
def test_crashes_under_chats(
    tmp_path: Path, n_kills: int, signals: tuple[signal.Signals, ...], seconds_apart: float, flags: tuple[str, ...]
) -> None:
    """Same texts, nothing that was acknowledged is lost, the same address; and how long a chat waits."""
    names = [f"chat-{n}" for n in range(3)]
    whole = {}
    with supervised(tmp_path / "data", *MODEL, *flags) as server, wire_to(server) as wire:
        wait_until_ready(wire)
        wire.ok("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
        for name in names:
            sampling = ("--temp", "0.9", "--seed", name.rpartition("-")[2], "--ignore-eos", "-sp")
            whole[name] = wire.run(*sampling, "-p", PROMPT.format(f" of {name}"), "-n", "170")["conversation"]
        wire.ok("set_max_tokens", {"max_tokens_update": 5, "max_tokens_query": 0})

        url, parent, first = server.url, server.pid, child_of(server)
        chats = Chats(names, whole)
        waits = []
        with ThreadPoolExecutor() as pool:
            work = []
            try:
                for name in names:
                    work.append(pool.submit(chats.talk, server, name))
                child = first
                for number in itertools.islice(itertools.cycle(signals), n_kills):
                    chats.wait_for_all()
                    killed_at = time.monotonic()
                    os.kill(child, number)
                    wait_for(lambda child=child: not is_there(child), "it did not end")
                    ended_at = time.monotonic()  # an answer from now on is one of the next server
                    waits.append(ended_at - killed_at + chats.wait_for_answer(ended_at))
                    child = child_of(server, other_than=child)
                    time.sleep(max(0.0, killed_at + seconds_apart - time.monotonic()))
                chats.wait_for_all()
            finally:
                chats.stop.set()
        for done in work:
            done.result(timeout=SECONDS)
        assert server.url == url
        assert server.pid == parent
        assert child != first
        metrics = httpx.get(f"{url}/metrics", headers=wire.http.headers, trust_env=False).text
        assert f"canister_restarts {float(n_kills)}" in metrics
        assert server.stop() == 0
    out = (tmp_path / "data" / "serve.out").read_text()
    assert out.count("listening on ") == 1
    events = [json.loads(line) for line in (tmp_path / "data" / "serve.err").read_text().splitlines() if "{" in line]
    crashes = [event["crash"] for event in events if event["event"] == "the server before this one crashed"]
    assert crashes == [number.name for number in itertools.islice(itertools.cycle(signals), n_kills)]
    assert examine(tmp_path / "data").findings == []
    print(
        f"\n{n_kills} crashes, {sum(chats.n_answered.values())} answered calls, 0 wrong, 0 lost; seconds to the next "
        f"answer: mean {statistics.mean(waits):.2f}, median {statistics.median(waits):.2f}, most {max(waits):.2f}"
    )


# -- too many crashes


def test_a_crash_loop_ends_with_a_message(tmp_path: Path) -> None:
    server = supervised(tmp_path / "data")
    server.start()
    child = 0
    for _ in range(5):
        child = child_of(server, other_than=child)
        os.kill(child, signal.SIGSEGV)
    assert server.wait() == 128 + signal.SIGSEGV
    last = (tmp_path / "data" / "serve.err").read_text().splitlines()[-1]
    assert last.startswith("canister: the server crashed 5 times within a minute, the last time by SIGSEGV")
    assert str(tmp_path / "data" / CRASH) in last
    # Nobody holds folder or address any more.
    server.start()
    assert server.stop() == 0


def test_a_model_that_was_being_decoded_at_three_crashes_is_not_loaded_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"args": ["-p", PROMPT.format(" of a very long way") * 6, "-n", "400", "--ignore-eos"]}
    short = {"args": ["-p", "Hi", "-n", "2"]}
    with supervised(tmp_path / "data", *MODEL, *OFTEN) as server, wire_to(server) as wire:
        wait_until_ready(wire)
        wire.ok("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
        (busy,) = (tmp_path / "data" / "canisters").glob(f"*/{BUSY_NAME}")

        def crash_while_decoding() -> tuple[int, str]:
            child = child_of(server)
            with ThreadPoolExecutor() as pool:
                call = pool.submit(lambda: wire.http.post("/run_update", json=long))
                while True:
                    wait_for(lambda: busy.read_bytes()[:1] == b"\1", "nothing is decoded")
                    os.kill(child, signal.SIGSTOP)  # so that it cannot get done between the look and the crash
                    wait_for(lambda: "(T" in state_of(child), "it does not stop")
                    if busy.read_bytes()[:1] == b"\1":
                        break
                    os.kill(child, signal.SIGCONT)
                os.kill(child, signal.SIGABRT)
                os.kill(child, signal.SIGCONT)
                assert isinstance(call.exception(SECONDS), httpx.HTTPError)
            child_of(server, other_than=child)
            return settled(wire)

        # A call that goes well begins the row anew.
        assert crash_while_decoding()[0] == 200
        wire.ok("run_update", short)
        for _ in range(MAX_IN_A_ROW - 1):
            assert crash_while_decoding()[0] == 200
        status, text = crash_while_decoding()
        assert status == 503
        said = "was being decoded when the server crashed 3 times in a row (the last time by SIGABRT)"
        assert said in text
        assert "Call load_model" in text
        # Everything else works; whoever does not control it is not told which file it is.
        assert wire.call("whoami").status == 200
        assert CHAT_MODEL.name not in httpx.get(f"{server.url}/readyz", trust_env=False).text
        engine = wire.http.get("/engine").json()
        assert engine["model"] is None
        assert said in engine["reason"]
        with pytest.raises(SystemExit):
            main(["status", "llama_cpp", "--network", server.url, "--data-dir", str(server.data_dir)])
        assert said in " ".join(capsys.readouterr().out.split())
        # Nor does a crash for another reason, or an orderly end, bring it back.
        os.kill(child_of(server), signal.SIGKILL)
        assert settled(wire)[0] in (0, 503)
        assert server.stop() == 0
        server.start()
        assert settled(wire)[0] == 503
        assert said in settled(wire)[1]
        # Asked for, it is loaded, and has three lives again.
        wire.ok("load_model", {"args": ["--model", f"models/{CHAT_MODEL.name}"]})
        wire.ok("run_update", short)
        assert crash_while_decoding()[0] == 200
    assert (tmp_path / "data" / LAST_CRASH).read_text().startswith("Fatal Python error: Aborted")


def state_of(pid: int) -> str:
    """As `ps` shows it, in brackets: "(T"."""
    return "(" + Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_without_a_supervisor_crashes_are_counted_too(tmp_path: Path) -> None:
    """As systemd or a container would have it; there a `kill -9` is nobody's fault."""
    server = LocalServer(tmp_path / "data", *MODEL)
    server.start()
    with wire_to(server) as wire:
        wait_until_ready(wire)
    (busy,) = (tmp_path / "data" / "canisters").glob(f"*/{BUSY_NAME}")
    for number, seen in ((signal.SIGSEGV, 1), (signal.SIGKILL, 1), (signal.SIGBUS, 2), (signal.SIGILL, 3)):
        # What the file holds while a decode is under way.
        at_work = b"\1" + bytes.fromhex(sha256_of(server))
        with busy.open("r+b") as file:  # in place: the server has it mapped, and a shorter file would end it
            file.write(at_work)
        assert server.end(number) == -number
        server.start()
        counted = json.loads((busy.parent / "engine.crashes").read_bytes())
        assert counted["n_in_a_row"] == seen
    with wire_to(server) as wire:
        assert "not loaded again by itself" in settled(wire)[1]
    assert server.stop() == 0


def sha256_of(server: LocalServer) -> str:
    with wire_to(server) as wire:
        details = wire.ok("uploaded_file_details", {"filename": f"models/{CHAT_MODEL.name}"})
    sha256: str = details["filesha256"]
    return sha256


# -- signals and exit codes


def test_signals_reach_the_child(tmp_path: Path) -> None:
    server = supervised(tmp_path / "data", *MODEL)
    server.start()
    parent, child = server.pid, child_of(server)
    os.kill(parent, signal.SIGTSTP)
    wait_for(lambda: "(T" in state_of(parent) and "(T" in state_of(child), "they do not stop")
    os.kill(parent, signal.SIGCONT)
    with wire_to(server) as wire:
        wait_until_ready(wire)
        wire.ok("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
        engine = wire.http.build_request("GET", "/engine")

        def runs() -> bool:
            n: int = wire.http.send(engine).json()["now"]["running"]
            return n > 0

        with ThreadPoolExecutor() as pool:
            # What runs is finished when the terminal is closed.
            while True:
                call = pool.submit(wire.run, "-p", PROMPT.format(""), "-n", "200", "--ignore-eos")
                wait_for(lambda call=call: call.done() or runs(), "no call runs")
                if not call.done():  # it may be over before anybody looked
                    break
            assert server.end(signal.SIGHUP) == 0
            assert call.result(SECONDS)["n_tokens_generated"] == 199
    assert not is_there(child)


@contextmanager
def an_upload_without_end(server: LocalServer) -> Iterator[Wire]:
    """A call that runs until its server is gone; then it has failed."""
    never = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"begin"
        never.wait(SECONDS)

    with wire_to(server) as wire, ThreadPoolExecutor() as pool:
        try:
            upload = pool.submit(wire.http.put, "/files/lost", content=body())
            metrics = str(wire.http.base_url.join("/metrics"))
            running = 'canister_streams_running{canister="llama_cpp"} 1.0'
            wait_for(lambda: running in wire.http.get(metrics).text, "no upload runs")
            yield wire
        finally:
            never.set()
        assert upload.exception(SECONDS) is not None or upload.result().status_code == 503


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    server = supervised(tmp_path / "data", "--drain-seconds", "1000")
    server.start()
    with an_upload_without_end(server) as wire:
        os.kill(server.pid, signal.SIGINT)
        wait_for(lambda: readiness(wire)[0] == 503, "it does not drain")
        assert server.end(signal.SIGINT) == 0


def test_a_child_that_crashes_while_it_stops_is_told_by_the_exit_code(tmp_path: Path) -> None:
    server = supervised(tmp_path / "data", "--drain-seconds", "1000")
    server.start()
    with an_upload_without_end(server) as wire:
        os.kill(server.pid, signal.SIGTERM)
        wait_for(lambda: readiness(wire)[0] == 503, "it does not drain")
        os.kill(child_of(server), signal.SIGKILL)
        assert server.wait() == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_child_that_was_stopped_hears_that_it_should_end(tmp_path: Path, number: signal.Signals) -> None:
    server = supervised(tmp_path / "data")
    server.start()
    child = child_of(server)
    os.kill(child, signal.SIGSTOP)
    wait_for(lambda: "(T" in state_of(child), "it does not stop")
    assert server.end(number) == 0
    assert not is_there(child)


DEAF = """
import signal, time
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize("n_signals", [1, 2])
def test_a_child_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], n_signals: int
) -> None:
    """The bound that does not count here lies far ahead: of one signal, or of two."""
    monkeypatch.setattr(supervisor, "END_SECONDS", 0.1 if n_signals == 1 else 2 * SECONDS)
    monkeypatch.setattr(supervisor, "HASTY_END_SECONDS", 0.1 if n_signals == 2 else 2 * SECONDS)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    popen = subprocess.Popen

    def start(*_: object, **__: object) -> subprocess.Popen[bytes]:
        child = popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
        assert child.stdout is not None
        with child.stdout as told:
            assert told.readline() == b"deaf\n"
        os.write(writer, bytes([signal.SIGTERM] * n_signals))
        threading.Thread(target=lambda: child.wait() and os.write(writer, bytes([signal.SIGCHLD]))).start()
        return child

    monkeypatch.setattr(subprocess, "Popen", start)
    lock = data_dir.take(tmp_path)
    try:
        with bind("127.0.0.1", 0) as listener:
            settings = {"server": {"data_dir": str(tmp_path), "max_crashes": 1, "drain_seconds": 0.1}}
            assert supervisor.Supervisor(settings, listener, lock).run(reader) == 128 + signal.SIGKILL
    finally:
        lock.release()
        os.close(reader)
        os.close(writer)
    assert "the server did not end and was killed" in capfd.readouterr().err


def test_a_child_that_is_stopped_by_itself_ends_the_parent(tmp_path: Path) -> None:
    server = supervised(tmp_path / "data")
    server.start()
    os.kill(child_of(server), signal.SIGTERM)
    assert server.wait() == 0


def test_told_to_end_between_two_children(tmp_path: Path) -> None:
    server = supervised(tmp_path / "data", *OFTEN)
    server.start()
    child = 0
    for _ in range(8):  # by then it pauses for seconds before the next
        child = child_of(server, other_than=child)
        os.kill(child, signal.SIGKILL)
    wait_for(lambda: not children(server.pid), "it does not pause")
    assert server.stop() == 0


def test_without_a_supervisor_the_exit_code_is_the_servers(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data")
    server.start()
    assert children(server.pid) == []
    assert server.end(signal.SIGSEGV) == -signal.SIGSEGV
    assert (tmp_path / "data" / CRASH).read_text().startswith("Fatal Python error: Segmentation fault")


# -- parents and folders


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    server = supervised(tmp_path / "data")
    server.start()
    url, child = server.url, child_of(server)
    server.kill()
    server.start()  # on the same folder and address, without waiting for anything
    assert server.url == url
    assert not is_there(child)
    assert int((tmp_path / "data" / "lock").read_text()) == server.pid
    with pytest.raises(ServerFailed, match=rf"another server uses the data folder .*process {server.pid}\)"):
        supervised(tmp_path / "data").start()
    assert server.stop() == 0


def test_where_the_kernel_does_not_do_it_the_child_notices_that_its_parent_is_gone() -> None:
    code = """
import socket, sys, threading
from canister.server.supervised import Supervised
link = socket.socket(fileno=int(sys.argv[1]))
Supervised(link, link, None, True, None, 0).end_with_parent()
print("waits", flush=True)
threading.Event().wait()
"""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", code, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"waits\n"
            assert child.poll() is None
            ours.close()
            assert child.wait(SECONDS) == -signal.SIGKILL


def test_the_parent_is_small(tmp_path: Path) -> None:
    with supervised(tmp_path / "data") as server:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{server.pid}/status").read_text().splitlines())
        assert int(status["Threads"]) == 1
        assert int(status["VmRSS"].split()[0]) < 30_000  # kB
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        assert "llama" not in maps
        assert "numpy" not in maps


# -- the parts


def test_how_ends_are_told() -> None:
    assert [how(code) for code in (1, -signal.SIGILL, -63)] == ["exit code 1", "SIGILL", "signal 63"]
    assert [exit_code(code) for code in (0, 3, -signal.SIGSEGV)] == [0, 3, 139]


def test_pauses_grow() -> None:
    pauses = [pause_seconds(n) for n in range(1, 40)]
    assert pauses[0] == 0
    assert all(earlier <= later for earlier, later in itertools.pairwise(pauses))
    assert pauses[-1] == 30


def test_settings_reach_the_child_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment and canister.toml say by the time of a restart."""
    settings = Settings(
        data_dir=tmp_path / "x",
        port=0,
        instruction_limit=None,
        ram_cache="1M",
        call_timeout=2.5,
        canister=["a", "b"],
        canisters={"a": {"slots": 3}},
        max_crashes=7,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANISTER_PORT", "9000")
    (tmp_path / "canister.toml").write_text("no longer TOML")
    read = settings_from_json(json.loads(settings.model_dump_json()))
    assert read.model_dump() == settings.model_dump()
    assert read.of("a").engine.slots == 3
