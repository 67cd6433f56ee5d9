"""Model files are hostile input: before the server loads one, a child process has to survive loading it.

llama.cpp answers much of what is wrong in a file by ending the process that it is in. The child (`trial_child.py`) is
bounded in memory and time, confined by the kernel, and does with the file what the server will do. What survived is
noted, by the file's SHA-256, llama.cpp's version and the parameters of the context, and not tried again; a note that
does not say exactly this is no note.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from canister import durable
from canister.engine.llama import ModelError
from canister.engine.loading import LoadParams
from canister.engine.machine import available_bytes
from canister.telemetry import get_logger

VERSION = 1  # raised when a trial asks more of a file than before
SECONDS = 60.0  # for any model
BYTES_PER_SECOND = 20_000_000  # and so much more time for each that is larger
SPARE_BYTES = 2 * 1024**3  # of addresses: libraries, stacks of threads
MAX_NOTES = 200
MAX_OUTPUT_BYTES = 16_384  # of what the child writes, its end

_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "VIRTUAL_ENV")
_LEFT_OUT = frozenset({"path", "more_paths", "name", "model_id", "n_threads", "ram_bytes", "max_pause_ms"}) | {
    *("exact", "findings", "handover")
}
_LAST_WORDS = re.compile(r"GGML_ASSERT\(.*|what\(\):.*|terminate called.*|\S+Error:.*")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """memory_bytes None: what is available now, and the file's size. seconds None: by the file's size."""

    memory_bytes: int | None = None
    seconds: float | None = None


class Trials:
    """folder: where notes are kept; made when needed. trusted: SHA-256 of files that need no trial."""

    def __init__(self, folder: Path, trusted: Collection[bytes] = (), limits: Limits = Limits()) -> None:
        self.n_tried = 0  # child processes started
        self._folder = folder
        self._trusted = frozenset(trusted)
        self._limits = limits
        self._running = asyncio.Lock()  # one at a time: each may take all the memory there is

    async def check(self, params: LoadParams, descriptors: Sequence[int] = ()) -> None:
        """Return if the file may be loaded with these parameters. ModelError names the file and what happened.

        descriptors: of the open files, if that is what the paths mean.
        """
        if params.model_id in self._trusted:
            return
        note = _note(params)
        async with self._running:
            if await asyncio.to_thread(self._is_noted, note):
                return
            self.n_tried += 1
            await self._try(params, descriptors)
            await asyncio.to_thread(self._keep, note)

    async def _try(self, params: LoadParams, descriptors: Sequence[int]) -> None:
        try:
            n_bytes = params.n_file_bytes()
        except OSError as error:
            raise _refused(params, str(error.strerror)) from error
        seconds = self._limits.seconds or SECONDS + n_bytes / BYTES_PER_SECOND
        task = {
            "files": [str(path) for path in (params.path, *params.more_paths)],
            "params": _parameters(params) | {"name": params.name, "n_threads": params.n_threads},
            "memory_bytes": self._limits.memory_bytes or available_bytes() + n_bytes + SPARE_BYTES,
            "seconds": int(seconds * (os.cpu_count() or 1)) + 1,
        }
        outcome = await _run(json.dumps(task).encode(), seconds, descriptors)
        log.info("model file tried", model=params.name, exit_code=outcome.exit_code, timed_out=outcome.timed_out)
        reason = _verdict(outcome, seconds)
        if reason is not None:
            raise ModelError(reason) if reason.startswith("Cannot ") else _refused(params, reason)

    # -- notes: a file each, named by the hash of what it says

    def _path(self, note: bytes) -> Path:
        return self._folder / hashlib.sha256(note).hexdigest()

    def _is_noted(self, note: bytes) -> bool:
        try:
            return self._path(note).read_bytes() == note
        except OSError:
            return False

    def _keep(self, note: bytes) -> None:
        """A note that cannot be kept costs the next load another trial, no more."""
        path = self._path(note)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            durable.write(path, note)
            notes = sorted(self._folder.iterdir(), key=lambda kept: kept.stat().st_mtime_ns)
            for old in notes[:-MAX_NOTES]:
                old.unlink()
        except OSError as error:
            log.warning("the trial of a model could not be noted", folder=str(self._folder), reason=str(error))


def path_of_descriptor(descriptor: int, otherwise: Path) -> Path:
    """A path of the open file itself, whatever its name means later, in this process and its children."""
    return Path(f"/proc/self/fd/{descriptor}") if sys.platform == "linux" else otherwise


@dataclass(frozen=True, slots=True)
class _Outcome:
    exit_code: int
    timed_out: bool
    answer: bytes
    complaints: str


def _parameters(params: LoadParams) -> dict[str, object]:
    """What the child needs of the parameters, and what a result depends on."""
    return {name: value for name, value in asdict(params).items() if name not in _LEFT_OUT}


def _note(params: LoadParams) -> bytes:
    version = metadata.version("llama-cpp-python")
    said = {"trial": VERSION, "sha256": params.model_id.hex(), "llama_cpp_python": version, **_parameters(params)}
    return json.dumps(said, sort_keys=True).encode()


async def _run(task: bytes, seconds: float, descriptors: Sequence[int]) -> _Outcome:
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join([str(_PACKAGE_FOLDER), environment.get("PYTHONPATH", "")]).rstrip(":")
    environment["GGML_NO_BACKTRACE"] = "1"  # else a crash would look for a debugger
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "canister.engine.trial_child"),
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
            process.stdin.write(task)
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
    return _Outcome(await process.wait(), timed_out, answer, complaints.decode("utf-8", "replace"))


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    end = b""
    while block := await stream.read(MAX_OUTPUT_BYTES):
        end = (end + block)[-MAX_OUTPUT_BYTES:]
    return end


def _verdict(outcome: _Outcome, seconds: float) -> str | None:
    """What is wrong with the file; None for nothing."""
    code = outcome.exit_code
    if outcome.timed_out or code == -signal.SIGXCPU:
        return f"trying it took more than {seconds:g} s"
    if code == -signal.SIGKILL:
        return "trying it was ended by the system, most likely for lack of memory; give a smaller --ctx-size"
    words = _LAST_WORDS.findall(outcome.complaints)
    said = f": {_printable(words[-1])}" if words else ""
    if "bad_alloc" in said or "MemoryError" in said:
        return f"it takes more memory than there is{said}; give a smaller --ctx-size"
    if code < 0:
        return f"llama.cpp crashed on it ({signal.Signals(-code).name}){said}; the file is damaged, or made to do harm"
    try:
        answer = json.loads(outcome.answer)
        error = answer["error"]
    except (ValueError, TypeError, KeyError):
        return f"trying it ended with code {code} and no answer{said}"
    return None if error is None and code == 0 else _printable(str(error), 500)


def _printable(text: str, n_characters: int = 160) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:n_characters]


def _refused(params: LoadParams, reason: str) -> ModelError:
    return ModelError(f"Cannot load the model {params.name or params.path.name}: {reason}")
