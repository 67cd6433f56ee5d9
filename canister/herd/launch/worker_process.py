"""A worker's process on this machine, as an agent has it: started, adopted and ended, whoever started it.

It is no child that ends with its agent: a session of its own, known again by pid and start time. Only so does it
outlive an agent that is killed, and only a process of its own can be confined by the kernel, since Ray has begun
threads in the agent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from canister.errors import CanisterUnavailable
from canister.herd.launch import folder as folders
from canister.herd.launch.launcher import WorkerSpec
from canister.system import atomic_file

START_SECONDS = 120.0
KILL_SECONDS = 20.0  # that a process may take beyond its drain
_POLL_SECONDS, _WATCH_SECONDS = 0.05, 0.25
_GREETING = "listening on "
_RECORD, _OUT = "process.json", "worker.out"
_RAYS_OWN = ("RAY_", "LD_PRELOAD", "OMP_NUM_THREADS")  # what Ray sets for its own processes


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A process that was started. begun: its start in the kernel's ticks, since pids come again."""

    pid: int
    begun: str
    generation: int
    url: str
    was_adopted: bool

    async def ended(self) -> None:
        """Wait for its end."""
        while _is_alive(self.pid, self.begun):  # noqa: ASYNC110  # it may be no child of ours, so only asking tells
            await asyncio.sleep(_WATCH_SECONDS)


class StartFailed(CanisterUnavailable):
    """The process did not come up. The message has its last line."""


async def run(workers: Path, spec: WorkerSpec, host: str, floor: int) -> WorkerProcess:
    """The worker's process: the one that runs in its folder, if it is what is wanted, else a new one.

    workers: holds the workers' folders. host: to listen on, on a free port. floor: the lowest generation of a new
    process, which is also above those of all that ran here, and not below the clock's milliseconds, so that it rises
    when a worker moves to another machine. Raises StartFailed, BadRequest, Conflict.
    """
    folder = await asyncio.to_thread(folders.prepare, workers, spec)
    mark = _mark(spec, host)
    record = await asyncio.to_thread(_read_record, folder)
    if record is not None and record.mark == mark and _is_alive(record.pid, record.begun):
        with suppress(StartFailed):
            url = await _greeting(folder, record)
            return WorkerProcess(record.pid, record.begun, record.generation, url, was_adopted=True)
    if record is not None:
        await _end(record.pid, record.begun, KILL_SECONDS)
    await asyncio.to_thread(folders.end_orphan, folder)  # one that was killed before it could write a record
    generation = await asyncio.to_thread(folders.next_generation, folder, max(floor, time.time_ns() // 1_000_000))
    pid = await asyncio.to_thread(_spawn, folder, spec, generation, host)
    record = _Record(pid, start_of(pid), generation, mark)
    await asyncio.to_thread(_write_record, folder, record)
    try:
        url = await _greeting(folder, record)
    except BaseException:
        await asyncio.shield(_end(record.pid, record.begun, 0.0))
        raise
    return WorkerProcess(record.pid, record.begun, generation, url, was_adopted=False)


async def end(process: WorkerProcess, drain_seconds: float) -> None:
    """End it in order within drain_seconds, else by force."""
    await _end(process.pid, process.begun, drain_seconds)


def runs_in(folder: Path) -> bool:
    """Does the process run that was started last in a worker's folder?"""
    record = _read_record(folder)
    return record is not None and _is_alive(record.pid, record.begun)


async def end_recorded(folder: Path) -> None:
    """End the process that was started last in a worker's folder, in order if it can be."""
    record = await asyncio.to_thread(_read_record, folder)
    if record is not None:
        await _end(record.pid, record.begun, KILL_SECONDS)


@dataclass(frozen=True, slots=True)
class _Record:
    """What the folder tells of the last process that was started in it. mark: of what was wanted then."""

    pid: int
    begun: str
    generation: int
    mark: str


def _spawn(folder: Path, spec: WorkerSpec, generation: int, host: str) -> int:
    environment = folders.environment()
    log = folders.open_log(folder)
    try:
        with (folder / _OUT).open("wb") as out:
            process = subprocess.Popen(
                folders.command(folder, spec, generation, f"{host}:0", alone=True),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=folder,
                env={name: value for name, value in environment.items() if not name.startswith(_RAYS_OWN)},
                start_new_session=True,
            )
    except OSError as error:
        raise StartFailed(f"the worker in {folder} cannot be started: {error.strerror}") from error
    finally:
        os.close(log)
    process.returncode = 0  # it is waited for by its pid, as adopted ones are
    return process.pid


async def _greeting(folder: Path, record: _Record) -> str:
    """The URL that it prints when it listens."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        is_alive = _is_alive(record.pid, record.begun)  # asked first: what it printed before is still seen
        line, newline, _ = _text(folder / _OUT).partition("\n")
        if newline and line.startswith(_GREETING):
            return line.removeprefix(_GREETING).strip()
        if not is_alive:
            raise StartFailed(f"the worker in {folder} did not start: {folders.last_words(folder)}")
        await asyncio.sleep(_POLL_SECONDS)
    raise StartFailed(f"the worker in {folder} did not come up in {START_SECONDS:g} s: {folders.last_words(folder)}")


async def _end(pid: int, begun: str, drain_seconds: float) -> None:
    for how, seconds in ((signal.SIGTERM, drain_seconds), (signal.SIGKILL, KILL_SECONDS)):
        end = time.monotonic() + seconds
        if _is_alive(pid, begun):
            with suppress(ProcessLookupError):
                os.kill(pid, how)
                os.kill(pid, signal.SIGCONT)  # somebody may have stopped it, and then it handles no signal
        while _is_alive(pid, begun) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)


def _is_alive(pid: int, begun: str) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # where it is our child, it is not to stay a zombie
    return begun != "" and start_of(pid) == begun


def start_of(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty when there is none, or it is a zombie. A pid and this
    name a process, since pids come again.
    """
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return "" if len(fields) < 20 or fields[0] in ("Z", "X") else fields[19]


def _mark(spec: WorkerSpec, host: str) -> str:
    """Equal for two specifications that ask for the same process."""
    said = json.dumps([spec.id, spec.secret.hex(), dict(spec.options), host], sort_keys=True, default=list)
    return hashlib.sha256(said.encode()).hexdigest()


def _read_record(folder: Path) -> _Record | None:
    try:
        content = json.loads((folder / _RECORD).read_bytes())
        return _Record(int(content["pid"]), str(content["begun"]), int(content["generation"]), str(content["mark"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_record(folder: Path, record: _Record) -> None:
    content = {"pid": record.pid, "begun": record.begun, "generation": record.generation, "mark": record.mark}
    atomic_file.write(folder / _RECORD, json.dumps(content).encode("ascii"))


def _text(path: Path) -> str:
    """Of a small file; empty when there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
