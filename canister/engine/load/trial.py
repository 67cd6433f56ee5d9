"""Model files are hostile input, so a child process must survive loading one before the server loads it.

llama.cpp answers much of what is wrong in a file by ending its process. The child (`trial_child.py`) is bounded in
memory and time, confined by the kernel, and does with the file what the server will do. A fault in one way of attention
only switches that way off. A note keeps the result, by the file's SHA-256, llama.cpp's build and the context's
parameters. The build itself is tried first (`library_trial.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from canister.engine.llama_types import ModelError
from canister.engine.load import calibration_file, child, library
from canister.engine.load.library_trial import LibraryTrials
from canister.engine.load.loaded import LoadParams
from canister.engine.load.memory_trial import MemoryTraits, from_json, to_json
from canister.engine.load.ways import EXTRA_BUFFERS, FLASH, Flash, Restrictions
from canister.system import atomic_file
from canister.system.machine import available_bytes, cpu_name
from canister.telemetry.logs import get_logger

VERSION = 3  # raised when a trial tests more than before
SECONDS = 60.0  # for any model
BYTES_PER_SECOND = 20_000_000  # more time for larger files
SPARE_BYTES = 2 * 1024**3  # of addresses: libraries, stacks of threads
MAX_NOTES = 200
_MODULE = "canister.engine.load.trial_child"
_LEFT_OUT = frozenset({"path", "more_paths", "name", "model_id", "n_threads", "ram_bytes", "max_pause_ms"}) | {
    *("spec_type", "spec_draft_n_max", "exact", "kv_bytes", "calibration_file", "logits_file", "restrictions"),
    *("memory", "placed", "reads_in_place", "draft", "spec_draft_n_min", "spec_draft_p_min"),
}
_KERNEL_SIGNALS = ("SIGILL", "SIGSEGV", "SIGBUS", "SIGFPE")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """memory_bytes None: the memory available now, and the file's size. seconds None: by the file's size."""

    memory_bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why an attempt failed. may_be_kernels: another way of computing may work."""

    text: str
    may_be_kernels: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """What a trial has found out: what is switched off, and how the model's memory works.

    is_sure: the result may be noted. A trial that was only too slow may be faster on another day.
    """

    restrictions: Restrictions
    memory: MemoryTraits
    is_sure: bool = True


@dataclass(slots=True)
class _Attempt:
    """The outcome of each way of attention, and what was found out about the memory in all of them."""

    faults: dict[str, _Fault | None]
    memory: MemoryTraits
    is_sure: bool = True


class Trials:
    """folder: where notes on files and on llama.cpp's build are kept, and what was measured of models; made when
    needed.
    """

    def __init__(self, folder: Path, limits: TrialLimits = TrialLimits()) -> None:
        self.library = LibraryTrials(folder / library.NOTES)
        self.n_tried = 0  # child processes started for files
        self.folder = folder
        self._limits = limits
        self._running = asyncio.Lock()  # one trial at a time, since each may take all memory

    async def check(self, params: LoadParams, descriptors: Sequence[int] = (), kinds: Sequence[str] = ()) -> LoadParams:
        """The parameters with which the file may be loaded. ModelError names the file and what happened.

        descriptors: of the open files, if the paths mean them. kinds: of its weights (`ways.weight_kinds`), for which
        llama.cpp's build is tried first.
        """
        if kinds:
            params = await self.library.restrict(params, kinds)
        said = _said(params)
        async with self._running:
            found = await asyncio.to_thread(self._recall, said)
            if found is None:
                found = await self._try(params, descriptors)
                if found.is_sure:
                    await asyncio.to_thread(self._keep, said, found)
        before = params.restrictions
        reasons = (*before.reasons, *found.restrictions.reasons)
        restrictions = replace(found.restrictions, reasons=reasons, advice=before.advice)
        if reasons or before.advice:
            log.warning(
                "llama.cpp does not work in full on this processor",
                model=params.name,
                processor=library.processor(),
                switched_off="; ".join(reasons) or None,
                advice=before.advice or None,
            )
        return replace(params, restrictions=restrictions, memory=found.memory)

    async def _try(self, params: LoadParams, descriptors: Sequence[int]) -> _Found:
        """The first way that survives, as restrictions with the reasons for what is new in them."""
        try:
            n_bytes = params.n_file_bytes()
        except OSError as error:
            raise _refused(params, str(error.strerror)) from error
        first: _Fault | None = None
        reasons: tuple[str, ...] = ()
        for restrictions in _narrower(params.restrictions):
            narrowed = replace(params, restrictions=restrictions)
            ways = narrowed.ways_of_attention()
            attempt = await self._attempt(narrowed, ways, n_bytes, descriptors)
            if None in attempt.faults.values():
                return _Found(_outcome(restrictions, attempt.faults, reasons), attempt.memory, attempt.is_sure)
            fault = next(fault for fault in attempt.faults.values() if fault is not None)
            first = first or fault
            if not fault.may_be_kernels:
                break
            what = f"a decode has at most one row: {fault.text}"
            reasons = (f"{EXTRA_BUFFERS} are off: {fault.text}",) if restrictions.extra_buffers else (*reasons, what)
        assert first is not None
        raise ModelError(first.text) if first.text.startswith("Cannot ") else _refused(params, first.text)

    async def _attempt(
        self, params: LoadParams, ways: Sequence[str], n_bytes: int, descriptors: Sequence[int]
    ) -> _Attempt:
        """Try each way of attention. Where one ends the child, another child continues with the next."""
        seconds = self._limits.seconds or SECONDS + n_bytes / BYTES_PER_SECOND
        named = {"name": params.name, "kv_bytes": params.kv_bytes}
        attempt = _Attempt({}, MemoryTraits())
        faults = attempt.faults
        while waiting := [way for way in ways if way not in faults]:
            self.n_tried += 1
            task = {
                "files": [str(path) for path in (params.path, *params.more_paths)],
                "attempts": [_parameters(replace(params, flash_attn=way)) | named for way in waiting],
                "looks_at_memory": None not in faults.values(),
                "memory_bytes": self._limits.memory_bytes or available_bytes() + n_bytes + SPARE_BYTES,
                "seconds": int(seconds * (os.cpu_count() or 1)) + 1,
            }
            outcome = await child.run(_MODULE, task, seconds, descriptors)
            log.info("model file tried", model=params.name, exit_code=outcome.exit_code, timed_out=outcome.timed_out)
            doing = child.LOADING
            stage, known = "", MemoryTraits()
            for line in outcome.lines:
                match line:
                    case ["end", int(number), said, found] if number in range(len(waiting)):
                        faults[waiting[number]] = None if said is None else _Fault(child.printable(str(said), 500))
                        attempt.memory = attempt.memory.and_also(_memory(params, found))
                        doing = child.LOADING
                    case [child.MEMORY, "chunks" | "states" | "streams" as stage, found]:
                        doing, known = child.MEMORY, _memory(params, found)
                    case [child.LOADING | child.DECODING as step]:
                        doing = step
            attempt.is_sure = attempt.is_sure and not outcome.was_slow
            left = [way for way in waiting if way not in faults]
            if left and doing == child.MEMORY and stage != "chunks":
                # The memory works for one chat, and the server will run no more with it.
                faults[left[0]] = None
                attempt.memory = attempt.memory.and_also(known.after_end(stage, _end(outcome, seconds)))
            elif left:
                # A fault that ends a child before it computes ends every other one too.
                n_ended = len(left) if doing == child.LOADING else 1
                faults |= dict.fromkeys(left[:n_ended], _death(outcome, seconds, doing))
        return attempt

    # -- notes: a file each, named by the hash of what was tried

    def _path(self, said: dict[str, object]) -> Path:
        return self.folder / hashlib.sha256(_json(said)).hexdigest()

    def _recall(self, said: dict[str, object]) -> _Found | None:
        try:
            note = self._path(said).read_bytes()
            content = json.loads(note)
            restrictions = Restrictions(**content["found"])
            restrictions = replace(restrictions, reasons=tuple(restrictions.reasons))
            found = _Found(restrictions, from_json(content["memory"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found if note == _note(said, found) else None

    def _keep(self, said: dict[str, object], found: _Found) -> None:
        """Note the result. Without a note the next load costs another trial, no more."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            atomic_file.write(self._path(said), _note(said, found))
            others = (library.NOTES, calibration_file.NAME)
            kept = (path for path in self.folder.iterdir() if path.name not in others)
            notes = sorted(kept, key=lambda path: path.stat().st_mtime_ns)
            for old in notes[:-MAX_NOTES]:
                old.unlink()
        except OSError as error:
            log.warning("the trial of a model could not be noted", folder=str(self.folder), reason=str(error))


def path_of_descriptor(descriptor: int, otherwise: Path) -> Path:
    """A path of the open file itself, whatever its name means later, in this process and its children."""
    return Path(f"/proc/self/fd/{descriptor}") if sys.platform == "linux" else otherwise


def _narrower(restrictions: Restrictions) -> Iterator[Restrictions]:
    """From the ways that llama.cpp's build allows on, each without the next best thing."""
    yield restrictions
    if restrictions.extra_buffers:
        yield (restrictions := replace(restrictions, extra_buffers=False))
    if restrictions.max_rows != 1:
        yield replace(restrictions, max_rows=1)


def _outcome(restrictions: Restrictions, faults: dict[str, _Fault | None], reasons: tuple[str, ...]) -> Restrictions:
    for way, fault in faults.items():
        if fault is not None:
            told = FLASH if way == "on" else f"running without {FLASH}"
            flash: Flash = "off" if way == "on" else "on"
            return replace(restrictions, flash=flash, reasons=(*reasons, f"{told} is off: {fault.text}"), advice="")
    return replace(restrictions, reasons=reasons, advice="")


def _parameters(params: LoadParams) -> dict[str, object]:
    """The parameters that the child needs and that a result depends on."""
    left_out = _LEFT_OUT if params.pooling else _LEFT_OUT | {"pooling", "reads_whole"}
    fields = {name: value for name, value in asdict(params).items() if name not in left_out}
    if params.placed.is_offloaded:
        fields["placed"] = asdict(params.placed)
    return {**fields, "restrictions": params.restrictions.key}


def _said(params: LoadParams) -> dict[str, object]:
    build = {"trial": VERSION, "library": library.library_id(), "processor": cpu_name()}
    ways = params.ways_of_attention()
    return {**build, "sha256": params.model_id.hex(), **_parameters(params), "ways": ways}


def _note(said: dict[str, object], found: _Found) -> bytes:
    return _json({"said": said, "found": asdict(found.restrictions), "memory": to_json(found.memory)})


def _json(content: object) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _death(outcome: child.ChildEnd, seconds: float, doing: str) -> _Fault:
    """Why a child did not finish, in words."""
    if outcome.was_slow:
        return _Fault(f"trying it took more than {seconds:g} s")
    if outcome.signal == "SIGKILL":
        return _Fault("trying it was ended by the system, most likely for lack of memory; give a smaller --ctx-size")
    said = f": {outcome.last_words}" if outcome.last_words else ""
    if any(word in said for word in child.MEMORY_WORDS):
        return _Fault(f"it takes more memory than there is{said}; give a smaller --ctx-size")
    if outcome.signal:
        text = (
            f"llama.cpp crashed on it ({outcome.signal}){said}; llama-cpp-python {library.version()} cannot run this "
            "file, which is damaged, or of a kind that it has a fault with"
        )
        # An assertion that fails is about the file; only attention has some that the other kind has not.
        is_abrupt = outcome.signal in _KERNEL_SIGNALS or (doing == child.DECODING and not outcome.last_words)
        return _Fault(text, is_abrupt)
    return _Fault(f"trying it ended with code {outcome.exit_code} and no answer{said}")


def _end(outcome: child.ChildEnd, seconds: float) -> str:
    """How a child ended while it tried something that the server can do without."""
    if outcome.was_slow:
        return f"llama.cpp had not come to an end after {seconds:g} s"
    said = f": {outcome.last_words}" if outcome.last_words else ""
    return f"llama.cpp crashed ({outcome.signal or outcome.exit_code}{said})"


def _memory(params: LoadParams, said: object) -> MemoryTraits:
    """The child's report on the model's memory, in words that may be shown. ModelError for a report that is
    malformed.
    """
    try:
        found = from_json(said)
    except ValueError as error:
        raise _refused(params, "trying it ended without an answer") from error
    return MemoryTraits(_shown(found.one_stream), _shown(found.no_states), _shown(found.single_rows), found.all_outputs)


def _shown(text: str | None) -> str | None:
    return None if text is None else child.printable(text, 300)


def _refused(params: LoadParams, reason: str) -> ModelError:
    return ModelError(f"Cannot load the model {params.name or params.path.name}: {reason}")
