"""A confined child process that does what might crash: how it is run, and how it reports.

The child reads one JSON document on stdin and writes a line of JSON for everything that it begins and ends, so that its
parent knows where it died. Its module (`trial_child.py`, `library_child.py`) calls `task`, `limit` and `say`. The rest
of this file is for the parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_OUTPUT_BYTES = 262_144  # the last ones that the child writes are kept
MAX_OPEN_FILES = 64
LOADING, DECODING, MEMORY = "loading", "decoding", "memory"  # what a trial of a file is doing
MEMORY_WORDS = ("bad_alloc", "MemoryError", "not enough memory")

_PACKAGE_FOLDER = Path(__file__).resolve().parents[3]
_KEPT_VARIABLES = (
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LLAMA_CPP_LIB_PATH"),  # the same llama.cpp as here
    *("LANG", "LC_ALL", "PATH", "PYTHONPATH", "VIRTUAL_ENV"),
)
# A crash must not look for a debugger. Waiting threads do not spin, since a trial is short and others need the cores.
_SET_VARIABLES = {"GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
_LAST_WORDS = re.compile(r"GGML_ASSERT\(.*|what\(\):.*|terminate called.*|\S+Error:.*")


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child ended. lines: its reports. complaints: the end of its stderr."""

    exit_code: int
    timed_out: bool
    lines: tuple[Any, ...]
    complaints: str

    @property
    def signal(self) -> str:
        """The name of the signal that ended it; empty if none did."""
        return signal.Signals(-self.exit_code).name if self.exit_code < 0 else ""

    @property
    def was_slow(self) -> bool:
        """Did it end because its time was up?"""
        return self.timed_out or self.signal == "SIGXCPU"

    @property
    def last_words(self) -> str:
        """llama.cpp's last message when it gave up, in one line; empty if there was none."""
        words = _LAST_WORDS.findall(self.complaints)
        return printable(words[-1]) if words else ""


async def run(module: str, task: object, seconds: float, descriptors: Sequence[int] = ()) -> ChildEnd:
    """Run a module as a child process for at most `seconds`. descriptors: open files that it inherits."""
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | _SET_VARIABLES
    environment["PYTHONPATH"] = os.pathsep.join([str(_PACKAGE_FOLDER), environment.get("PYTHONPATH", "")]).rstrip(":")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        pass_fds=descriptors,
        cwd="/",
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: PT018
    outputs = asyncio.gather(_end_of(process.stdout), _end_of(process.stderr))
    timed_out = False
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(json.dumps(task).encode())
            process.stdin.close()
            await process.stdin.wait_closed()
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            timed_out = True
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.shield(process.wait())
        answer, complaints = await outputs
    return ChildEnd(await process.wait(), timed_out, _lines(answer), complaints.decode("utf-8", "replace"))


def printable(text: str, n_characters: int = 160) -> str:
    """The text as one line that a terminal can show."""
    return "".join(character if character.isprintable() else "?" for character in text)[:n_characters]


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    end = b""
    while block := await stream.read(MAX_OUTPUT_BYTES):
        end = (end + block)[-MAX_OUTPUT_BYTES:]
    return end


def _lines(answer: bytes) -> tuple[Any, ...]:
    """The whole lines of the output. A child that is killed may stop within a line."""
    lines = []
    for line in answer.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return tuple(lines)


# -- in the child


def task() -> Any:
    """Read what the parent asks for."""
    return json.load(sys.stdin.buffer)


def say(*words: object) -> None:
    """Report to the parent at once, since the next moment may be the last."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def limit(memory_bytes: int, cpu_seconds: int, n_files: int = 0) -> None:
    """Bound what this process may take, where the system has such bounds. n_files: open files beside the usual ones."""
    limits = [
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES + n_files),
        (resource.RLIMIT_CORE, 0),
    ]
    for kind, wanted in limits:
        hard = resource.getrlimit(kind)[1]
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(kind, (bound, bound))
        except (OSError, ValueError):
            continue  # not every system knows every limit
    if sys.platform == "linux":
        # If memory runs out, the kernel should kill this process. A confined server's child may not ask for that.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
