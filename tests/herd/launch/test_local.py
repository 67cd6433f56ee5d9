"""Workers as child processes: kept alive, ended for good, and never two in one folder."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from canister.client import known_trials
from canister.errors import BadRequest, Conflict
from canister.herd.launch import folder as folders
from canister.herd.launch.launcher import WorkerEnded, WorkerSpec, WorkerStarted
from canister.herd.launch.local import LocalLauncher
from canister.herd.worker_client import WorkerClient, WorkerLost, WorkerRefused
from canister.system.data_dir import LOCK, FolderLock
from tests.processes import is_there

pytestmark = pytest.mark.anyio

SECRET = bytes(range(32))
SPEC = WorkerSpec("w1", SECRET, {"log-level": "warning", "threads": "1"})


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[LocalLauncher]:
    known_trials.borrow(tmp_path)
    made = LocalLauncher(tmp_path / "workers")
    yield made
    await made.close()


def _begun(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)


async def answering(client: WorkerClient) -> None:
    while True:
        try:
            await client.state()
        except WorkerLost:
            await asyncio.sleep(0.02)
        else:
            return


async def test_a_worker_that_dies_is_started_again_with_a_higher_generation(launcher: LocalLauncher) -> None:
    first = await launcher.start(SPEC)
    async with aclosing(launcher.events()) as events:
        assert await anext(events) == WorkerStarted(first)
        async with WorkerClient(first, SECRET) as client:
            await answering(client)
            os.kill(first.pid, signal.SIGKILL)
            ended = await anext(events)
            assert ended == WorkerEnded(first, "SIGKILL", returns=True)
            started = await anext(events)
            assert isinstance(started, WorkerStarted)
            second = started.ref
            assert (second.generation, second.url) == (first.generation + 1, first.url)
            assert second.pid != first.pid
            async with WorkerClient(second, SECRET) as other:
                await answering(other)
            with pytest.raises(
                WorkerRefused, match="generation"
            ):  # what is meant for the first never reaches the second
                await client.state()
        await launcher.stop(second, 5.0)
        assert await anext(events) == WorkerEnded(second, "exit code 0", returns=False)


async def test_a_stopped_process_is_ended_too(launcher: LocalLauncher) -> None:
    ref = await launcher.start(SPEC)
    async with WorkerClient(ref, SECRET) as client:
        await answering(client)
    os.kill(ref.pid, signal.SIGSTOP)
    await launcher.stop(ref, 5.0)
    with pytest.raises(ProcessLookupError):
        os.kill(ref.pid, 0)


async def test_what_a_former_herd_has_left_is_ended(tmp_path: Path, launcher: LocalLauncher) -> None:
    """As on systems where the kernel does not end children with their parent."""
    folder = tmp_path / "workers" / "w1"
    folder.mkdir(parents=True)
    hold = f"import sys, time; sys.path[:0] = {sys.path!r}; from pathlib import Path; "
    hold += f"from canister.system.data_dir import FolderLock; FolderLock(Path({str(folder / LOCK)!r})).take(); "
    orphan = _begun(hold + "print('held', flush=True); time.sleep(600)")
    assert orphan.stdout is not None
    with orphan.stdout:
        assert await asyncio.to_thread(orphan.stdout.readline) == b"held\n"
        reaped = asyncio.create_task(
            asyncio.to_thread(orphan.wait)
        )  # a zombie would hold its lock no more, but its pid
        ref = await launcher.start(SPEC)
        assert await reaped == -signal.SIGTERM
    async with WorkerClient(ref, SECRET) as client:
        await answering(client)
    assert FolderLock(folder / LOCK).holder() == ref.pid


async def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """However it ends."""
    known_trials.borrow(tmp_path)
    program = f"""
import asyncio, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from canister.herd.launch.launcher import WorkerSpec
from canister.herd.launch.local import LocalLauncher
async def main():
    ref = await LocalLauncher(Path({str(tmp_path / "workers")!r})).start(WorkerSpec("w1", bytes(range(32)), {{}}))
    print(ref.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    parent = _begun(program)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        parent.kill()
        parent.wait()
    while is_there(pid):  # noqa: ASYNC110  it has no event
        await asyncio.sleep(0.01)


async def test_two_workers_of_one_name(launcher: LocalLauncher) -> None:
    await launcher.start(SPEC)
    with pytest.raises(Conflict, match="w1 runs already"):
        await launcher.start(SPEC)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (WorkerSpec("../w1", SECRET, {}), "worker id"),
        (WorkerSpec("w1", SECRET, {"port": "80"}), "--port is set by the herd"),
        (WorkerSpec("w1", SECRET, {"herd-generation": "7"}), "--herd-generation is set by the herd"),
        (WorkerSpec("w" * 63, SECRET, {}), "too long a path"),
    ],
)
def test_what_cannot_be_a_worker(tmp_path: Path, spec: WorkerSpec, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        folders.prepare(tmp_path / ("x" * 60), spec)


def test_generations_only_rise(tmp_path: Path) -> None:
    assert [folders.next_generation(tmp_path) for _ in range(3)] == [1, 2, 3]
    (tmp_path / folders.GENERATION).write_text("damaged")
    assert folders.next_generation(tmp_path, floor=9) == 9
