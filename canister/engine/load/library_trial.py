"""Tries a build of llama.cpp on this processor in a child process, before the server decodes anything with it.

llama.cpp chooses kernels by processor, weight type, number of rows and buffer type, and some builds crash in some of
them. So `library_child.py` tries every kind of weights that a model has in every way, and `ways.py` chooses the fastest
way that survives. `library.py` keeps the results in the data folder, by the build's files and the processor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from canister.engine.llama_types import ModelError
from canister.engine.load import child, library
from canister.engine.load.loaded import LoadParams
from canister.engine.load.ways import Way, capped_ways, choose, fault, first_ways
from canister.system.machine import usable_cores
from canister.telemetry.logs import get_logger

MEMORY_BYTES = 8 * 1024**3  # of addresses: libraries, stacks of threads, the samples
STEP_SECONDS = 10  # for what takes some milliseconds
MAX_THREADS = 2
_MODULE = "canister.engine.load.library_child"

log = get_logger(__name__)

Trial = tuple[str, Way]


@dataclass(slots=True)
class _Found:
    """Of a kind: the outcome of each way, and how many rows it had survived by then."""

    outcomes: dict[Way, str]
    n_survived: dict[Way, int]


class LibraryTrials:
    """file: where results are kept. A cache that may be deleted."""

    def __init__(self, file: Path, step_seconds: int = STEP_SECONDS) -> None:
        self.n_tried = 0  # child processes started
        self._file = file
        self._step_seconds = step_seconds
        self._running = asyncio.Lock()

    async def restrict(self, params: LoadParams, kinds: Sequence[str]) -> LoadParams:
        """The parameters, with what must be off for these kinds of weights. ModelError if no way survives.

        `exact` is "on" where "portable" was asked for. ModelError for a build that is not.
        """
        is_portable = params.exact == "portable"
        params = replace(params, exact="on") if is_portable else params
        tried, compiled = await self._outcomes(params, kinds)
        if is_portable and (why := library.not_portable(compiled)):
            raise ModelError(why)
        found = choose(tried, params.ways_of_attention())
        if found is None:
            raise ModelError(_nothing_survives(params, fault(tried), compiled))
        return replace(params, restrictions=replace(found, advice=library.advice(found, compiled)))

    async def _outcomes(
        self, params: LoadParams, kinds: Sequence[str]
    ) -> tuple[dict[str, dict[Way, str]], tuple[str, ...]]:
        names = {kind: f"{kind} {params.type_k} {params.type_v}" for kind in kinds}
        async with self._running:
            known = await asyncio.to_thread(library.recall, self._file)
            tried = {name: dict(outcomes) for name, outcomes in known.tried.items()}
            lacking = [kind for kind in kinds if names[kind] not in tried]
            compiled = known.compiled
            if lacking:
                found, compiled = await self._try(params, lacking)
                tried |= {names[kind]: one.outcomes for kind, one in found.items()}
                try:
                    self._file.parent.mkdir(mode=0o700, exist_ok=True)
                    await asyncio.to_thread(library.keep, self._file, library.BuildFacts(compiled, tried))
                except OSError as error:
                    log.warning("the trial of llama.cpp could not be noted", file=str(self._file), reason=str(error))
        return {kind: tried[name] for kind, name in names.items()}, compiled

    async def _try(self, params: LoadParams, kinds: Sequence[str]) -> tuple[dict[str, _Found], tuple[str, ...]]:
        found = {kind: _Found({}, {}) for kind in kinds}
        compiled: tuple[str, ...] = ()
        waiting = [(kind, way) for kind in kinds for way in first_ways()]
        was_slow: set[Trial] = set()
        while waiting:
            outcome = await self._run(params, waiting)
            compiled = compiled or _features(outcome)
            n_done = _take(found, waiting, outcome, self._step_seconds)
            slow = waiting[n_done - 1]
            if outcome.signal == "SIGALRM" and slow not in was_slow:
                was_slow.add(slow)  # the machine may just be very busy, so once is no verdict
                n_done -= 1
            waiting = waiting[n_done:]
            if not waiting:
                waiting = [
                    (kind, way) for kind, one in found.items() for way in capped_ways(one.outcomes, one.n_survived)
                ]
        log.info(
            "llama.cpp tried on this processor",
            llama_cpp_python=library.version(),
            processor=library.processor(),
            weights=", ".join(kinds),
            n_children=self.n_tried,
        )
        return found, compiled

    async def _run(self, params: LoadParams, trials: Sequence[Trial]) -> child.ChildEnd:
        self.n_tried += 1
        task = {
            "trials": trials,
            "type_k": params.type_k,
            "type_v": params.type_v,
            "n_threads": min(MAX_THREADS, usable_cores()),
            "memory_bytes": MEMORY_BYTES,
            "cpu_seconds": MAX_THREADS * self._step_seconds * (1 + len(trials)),
            "step_seconds": self._step_seconds,
        }
        return await child.run(_MODULE, task, float(self._step_seconds * (2 + len(trials))))


def _features(outcome: child.ChildEnd) -> tuple[str, ...]:
    return next((tuple(line[1:]) for line in outcome.lines if line[0] == "features"), ())


def _take(found: dict[str, _Found], trials: Sequence[Trial], outcome: child.ChildEnd, step_seconds: int) -> int:
    """Note what a child has found out. Returns how many of its trials have ended. ModelError if it reports nothing."""
    n_done, doing = 0, "starting llama.cpp"
    for line in outcome.lines:
        if line[0] == "features":
            continue
        kind, way = trials[line[0]]
        if len(line) == 3:
            doing, found[kind].n_survived[way] = line[1], line[2]
        else:
            found[kind].outcomes[way] = line[1]
            n_done += 1
            doing = "loading"
    if n_done == len(trials):
        return n_done
    kind, way = trials[n_done]
    found[kind].outcomes[way] = f"{doing} {_death(outcome, step_seconds)}"
    return n_done + 1


def _death(outcome: child.ChildEnd, step_seconds: int) -> str:
    """How it ended, as the end of a sentence. ModelError where that is no fault of llama.cpp."""
    said = f": {outcome.last_words}" if outcome.last_words else ""
    if outcome.timed_out or outcome.signal in ("SIGALRM", "SIGXCPU"):
        return f"took more than {step_seconds} s"
    is_short = outcome.signal == "SIGKILL" or any(word in outcome.complaints for word in child.MEMORY_WORDS)
    if is_short or not outcome.signal:
        why = "for lack of memory, most likely" if is_short else f"with code {outcome.exit_code}{said}"
        raise ModelError(f"llama.cpp could not be tried on this processor: the trial ended {why}; try again")
    return f"crashed ({outcome.signal}){said}"


def _nothing_survives(params: LoadParams, first_fault: str, compiled: Sequence[str]) -> str:
    return (
        f"Cannot load the model {params.name or params.path.name}: llama.cpp, as llama-cpp-python {library.version()} "
        f"brings it, does not work on this processor ({library.processor()}; the build makes use of "
        f"{', '.join(compiled) or 'what it could not tell'}): {first_fault}. Build it on this machine and start "
        f"the server again: {library.rebuild_command()}"
    )
