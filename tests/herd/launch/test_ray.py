"""Workers on the machines of a Ray cluster: two raylets on loopback, of which everything is killed, one after the
other.

Each machine has a folder of its own. What counts: a worker that can go on does, one that cannot comes back with a
higher generation, and nothing that dies takes the herd's door along.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.errors import BadRequest, CanisterUnavailable
from canister.herd.launch import ray as ray_launch
from canister.herd.launch.launcher import WorkerEnded, WorkerEvent, WorkerRef, WorkerSpec, WorkerStarted
from canister.herd.launch.ray import RayCluster, RayLauncher
from canister.herd.launch.ray_machine import Machine, environment
from canister.system import sandbox
from tests.herd.herds import QUESTIONS, chat, client_of, herd_process, wait_ready

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="workers on Ray need ray, of the extra `herd`"),
    pytest.mark.skipif(sys.platform != "linux", reason="a process is known again by /proc"),
]

TOKEN = "0123456789abcdef0123456789abcdef"
SECRET = bytes(range(32))
OPTIONS: dict[str, str | bool] = {"threads": "1", "log-level": "warning"}
WAIT_SECONDS = 120.0


class Machines:
    """The process that has the cluster."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        with (folder / "cluster.err").open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.herd.launch.ray_cluster", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def do(self, what: str, **named: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **named}).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, (self.folder / "cluster.err").read_text(errors="replace")[-3000:]
        said = json.loads(line)
        assert "ok" in said, said
        return said["ok"]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    # Ray makes sockets below it, whose paths may not be long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        yield from cluster_in(Path(name))


def cluster_in(folder: Path) -> Iterator[Machines]:
    (folder / "ray").mkdir()
    (folder / "token").write_text(TOKEN, encoding="ascii")
    machines = Machines(folder, environment_of(folder))
    try:
        machines.do("add", node="second", resources={"second": 9, "any": 9})
        yield machines
    finally:
        machines.close()
        for pid in processes(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def environment_of(folder: Path) -> dict[str, str]:
    """As `canister herd machine` sets it on each machine, and on loopback."""
    (folder / "head").mkdir()
    return environment(Machine(folder), folder / "token") | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray binds the machine's address
        "RAY_TMPDIR": str(folder),
    }


@pytest.fixture
async def launcher(machines: Machines) -> AsyncIterator[RayLauncher]:
    launcher = RayLauncher(cluster_of(machines))
    yield launcher
    await launcher.close()


def cluster_of(machines: Machines) -> RayCluster:
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return RayCluster(machines.do("address"), "herd", machines.folder / "token", loopback)


def spec(worker: str, **resources: float) -> WorkerSpec:
    return WorkerSpec(worker, SECRET, OPTIONS, {"CPU": 0.5, **resources})


async def next_of(events: AsyncIterator[WorkerEvent], kind: type[WorkerEvent], worker: str) -> Any:
    async with asyncio.timeout(WAIT_SECONDS):
        async for event in events:
            if isinstance(event, kind) and event.ref.id == worker:
                return event
    raise AssertionError("the events ended")


async def serves(ref: WorkerRef) -> bool:
    """Does it answer, as this generation of this worker? Its folder tells that too."""
    async with httpx.AsyncClient() as client, asyncio.timeout(WAIT_SECONDS):
        while True:
            with suppress(httpx.TransportError):
                if (await client.get(f"{ref.url}/healthz")).status_code == 200:
                    return True
            await asyncio.sleep(0.1)


def processes(folder: Path, title: bytes = b"") -> list[int]:
    """Processes whose environment or command line names the folder, and whose command line begins with the title."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (path / "cmdline").read_bytes()
            about = command + (path / "environ").read_bytes()
            if str(folder).encode() in about and command.startswith(title) and int(path.name) != os.getpid():
                found.append(int(path.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def test_workers_are_placed_by_what_they_need_and_are_confined(launcher: RayLauncher, machines: Machines) -> None:
    one, two = await asyncio.gather(launcher.start(spec("w1", first=1)), launcher.start(spec("w2", second=1)))
    assert await serves(one)
    assert await serves(two)
    assert (machines.folder / "first" / "w1" / "canister.db").parent.is_dir()
    assert (machines.folder / "second" / "w2").is_dir()
    assert not (machines.folder / "first" / "w2").exists()
    key = (machines.folder / "first" / "w1" / "controller.key").read_text(encoding="ascii").strip()
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
        metrics = (await client.get(f"{one.url}/metrics")).text
    is_confined = sandbox.abi() >= sandbox.MIN_ABI  # where this kernel can
    assert f"canister_confined {float(is_confined)}" in metrics
    environment = Path(f"/proc/{one.pid}/environ").read_bytes()
    assert b"RAY_" not in environment  # nor the token of the cluster
    await launcher.stop(one, 20)
    assert not is_alive(one.pid)
    assert is_alive(two.pid)


@pytest.mark.nightly
async def test_a_worker_that_dies_comes_back_with_a_higher_generation(launcher: RayLauncher) -> None:
    events = launcher.events()
    ref = await launcher.start(spec("w1", first=1))
    assert await next_of(events, WorkerStarted, "w1") == WorkerStarted(ref)
    os.kill(ref.pid, signal.SIGKILL)
    ended = await next_of(events, WorkerEnded, "w1")
    assert (ended.ref, ended.returns) == (ref, True)
    again = (await next_of(events, WorkerStarted, "w1")).ref
    assert again.generation > ref.generation
    assert await serves(again)


@pytest.mark.nightly
async def test_a_worker_outlives_its_agent_and_the_next_one_keeps_it(launcher: RayLauncher, machines: Machines) -> None:
    events = launcher.events()
    ref = await launcher.start(spec("w1", first=1))
    await next_of(events, WorkerStarted, "w1")
    (agent,) = processes(machines.folder, b"ray::RayAgent")
    os.kill(agent, signal.SIGKILL)
    async with asyncio.timeout(WAIT_SECONDS):
        while processes(machines.folder, b"ray::RayAgent") in ([], [agent]):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert is_alive(ref.pid)
    os.kill(ref.pid, signal.SIGKILL)  # the new agent sees that, though it is no child of its
    again = (await next_of(events, WorkerStarted, "w1")).ref
    assert again.generation > ref.generation
    assert await serves(again)


async def test_a_worker_goes_to_another_machine_when_its_own_is_lost(launcher: RayLauncher, machines: Machines) -> None:
    events = launcher.events()
    filler = await launcher.start(spec("w1", first=9, any=9))  # so that only the second machine has room
    ref = await launcher.start(spec("w2", any=1))
    await next_of(events, WorkerStarted, "w2")
    assert (machines.folder / "second" / "w2" / "process.json").exists()
    machines.do("kill raylet", node="second")
    try:
        await launcher.stop(filler, 10)  # now the first one has room
        again = (await next_of(events, WorkerStarted, "w2")).ref
        assert again.generation > ref.generation
        assert again.url != ref.url
        assert await serves(again)
        assert (machines.folder / "first" / "w2" / "process.json").exists()
        assert is_alive(ref.pid)  # nobody could end it there: it is fenced off by its generation
    finally:
        os.kill(ref.pid, signal.SIGKILL)
        machines.do("add", node="second", resources={"second": 9, "any": 9})


@pytest.mark.nightly
async def test_workers_and_agents_go_on_without_the_head(launcher: RayLauncher, machines: Machines) -> None:
    events = launcher.events()
    ref = await launcher.start(spec("w1", first=1))
    await next_of(events, WorkerStarted, "w1")
    machines.do("kill head")
    os.kill(ref.pid, signal.SIGKILL)
    again = (await next_of(events, WorkerStarted, "w1")).ref
    assert await serves(again)
    machines.do("start head")
    other = await launcher.start(spec("w2", second=1))
    assert await serves(other)
    assert is_alive(again.pid)


async def test_chats_go_on_when_a_machine_is_lost(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`canister herd serve --ray`: two workers on two machines, of which one burns in the middle of chats."""
    for name, value in environment(Machine(machines.folder), machines.folder / "token").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    on_ray = ("--ray", machines.do("address"), "--needs", "CPU=1", "--needs", "any=5")  # one a machine
    with herd_process(tmp_path, *on_ray) as server:
        async with client_of(server) as http:
            await wait_ready(http)
            pids = await workers_of(http, 2)

            async def call(method: str, arg: object) -> Any:
                said = await http.post(f"/canisters/llama_cpp/{method}", json=arg)
                assert said.status_code == 200, said.text
                return said.json()["Ok"]

            quiet = await chat(call, "quiet", QUESTIONS[0])
            n_calls = 0

            async def disturbed(method: str, arg: object) -> Any:
                nonlocal n_calls
                n_calls += 1
                if n_calls == 7:  # each chat has begun
                    await asyncio.to_thread(machines.do, "kill raylet", node="second")
                    for pid in pids.values():  # and with it what runs there
                        if f"{machines.folder / 'second'}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                            os.kill(pid, signal.SIGKILL)
                return await call(method, arg)

            try:
                said = await asyncio.gather(*(chat(disturbed, f"d{n}", QUESTIONS[0]) for n in range(4)))
                for records in said:  # the first one names the chat
                    assert [record["output"] for record in records[1:]] == [record["output"] for record in quiet[1:]]
            finally:
                await asyncio.to_thread(machines.do, "add", node="second", resources={"second": 9, "any": 9})
            again = await workers_of(http, 2)
            assert again.keys() == pids.keys()
            assert again != pids


async def workers_of(http: httpx.AsyncClient, n: int) -> dict[str, int]:
    """The pids of the workers, once so many are ready."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = (await http.get("/herd/status")).json()["workers"]
            if sum(worker["phase"] == "ready" for worker in found) == n:
                return {worker["id"]: worker["pid"] for worker in found}
            await asyncio.sleep(0.2)


@pytest.mark.nightly
async def test_a_driver_that_dies_is_started_again_and_finds_all(launcher: RayLauncher) -> None:
    ref = await launcher.start(spec("w1", first=1))
    driver = launcher._driver
    assert driver is not None
    driver.kill()
    other = await launcher.start(spec("w2", second=1))
    assert await serves(other)
    assert is_alive(ref.pid)
    await launcher.stop(ref, 20)
    assert not is_alive(ref.pid)


async def test_the_next_herd_adopts_what_runs(machines: Machines) -> None:
    first = RayLauncher(cluster_of(machines))
    ref = await first.start(spec("w1", first=1))
    await first.leave()
    second = RayLauncher(cluster_of(machines))
    try:
        assert await second.start(spec("w1", first=1)) == ref
    finally:
        await second.close()
    assert not is_alive(ref.pid)


@pytest.mark.nightly
async def test_a_worker_that_has_no_machine_is_told(launcher: RayLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_launch, "START_SECONDS", 15.0)
    with pytest.raises(CanisterUnavailable, match=r"no machine of the cluster has room for it: .*'third': 1"):
        await launcher.start(spec("w9", third=1))


async def test_a_wrong_option_is_told(launcher: RayLauncher) -> None:
    with pytest.raises(CanisterUnavailable, match="colour"):
        await launcher.start(WorkerSpec("w8", SECRET, {"colour": "red"}, {"CPU": 0.5}))


@pytest.mark.nightly
async def test_who_has_another_token_gets_nothing(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_launch, "START_SECONDS", 20.0)
    (tmp_path / "token").write_text("f" * 32, encoding="ascii")
    cluster = cluster_of(machines)
    launcher = RayLauncher(RayCluster(cluster.address, "herd", tmp_path / "token", cluster.environment))
    with pytest.raises(CanisterUnavailable, match="worker w1 could not be started"):
        await launcher.start(spec("w1", first=1))
    await launcher.leave()


def test_a_cluster_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadRequest, match="without a token"):
        RayLauncher(RayCluster("127.0.0.1:6379"))
