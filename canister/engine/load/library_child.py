"""The child process of `library_trial.py`: runs llama.cpp's kernels on sample models, way by way.

stdin: {"trials": [[kind, [extra_buffers, flash_attn, max_rows]], …], "type_k", "type_v", "n_threads", "memory_bytes",
"cpu_seconds", "step_seconds"}. stdout, a line each: ["features", …] once, then for each trial [its number, its next
step, the most rows that it has survived], and at its end [its number, fault or ""]. SIGALRM ends a step that takes too
long.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from canister.engine.llama import Context, Model
from canister.engine.llama_build import compiled_features
from canister.engine.llama_types import ContextParams, EngineFault, ModelError
from canister.engine.load.child import limit, say, task
from canister.engine.load.sample_model import N_VOCAB, sample_model
from canister.engine.load.ways import Way, type_of
from canister.system import sandbox

ROW_COUNTS = (1, 2, 3, 8, 32, 512)
STREAM_COUNTS = (2, 3, 8)
N_OF_EACH = 5  # rows of several streams in one decode
N_CELLS = 768  # of a stream: room for all of the above


def main() -> None:
    asked = task()
    trials = [(kind, Way(*way)) for kind, way in asked["trials"]]
    params = ContextParams(
        n_streams=max(STREAM_COUNTS),
        n_cells=N_CELLS,
        n_rows=max(ROW_COUNTS),
        n_threads=asked["n_threads"],
        type_k=asked["type_k"],
        type_v=asked["type_v"],
    )
    # Write the samples first, since the confined process may write no more.
    with _samples({kind for kind, _ in trials}) as samples:
        limit(asked["memory_bytes"], asked["cpu_seconds"])
        # The samples need no rule, since Landlock ignores files without a place in the file system.
        sandbox.confine_trial([Path("/proc"), Path("/sys"), *(Path(part) for part in sys.path if part)])
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(asked["step_seconds"])
        say("features", *compiled_features())
        for number, (kind, way) in enumerate(trials):
            doing = "loading"

            def begin(step: str, n_survived: int, number: int = number) -> None:
                nonlocal doing
                doing = step
                signal.alarm(asked["step_seconds"])
                say(number, step, n_survived)

            try:
                _try(samples[kind], kind, way, params, begin)
                fault = ""
            except (ModelError, EngineFault) as error:
                fault = f"{doing} failed: {error}"
            say(number, fault)
    os._exit(0)  # the kernel frees the rest


def _try(path: Path, kind: str, way: Way, params: ContextParams, begin: Callable[[str, int], None]) -> None:
    begin("loading", 0)
    model = Model(path, kind, extra_buffers=way.extra_buffers)
    context = Context(model, replace(params, flash_attn=way.flash_attn, most_at_once=way.max_rows), kind)
    lengths = [0] * params.n_streams
    n_survived = 0
    for step, streams in _decodes():
        begin(step, n_survived)
        positions, last = [], {}
        for row, stream in enumerate(streams):
            positions.append(lengths[stream])
            lengths[stream] += 1
            last[stream] = row
        tokens = [(7 * row + len(streams)) % N_VOCAB for row in range(len(streams))]
        context.decode(streams, positions, tokens, [*last.values()])
        if not all(np.isfinite(context.logits(row)).all() for row in last.values()):
            raise EngineFault("what it computes are no numbers")
        n_survived = max(n_survived, len(streams))
    context.close()


def _decodes() -> Iterator[tuple[str, list[int]]]:
    """The decodes to try: in words, and the stream of each row."""
    for n in ROW_COUNTS:
        yield "a decode of one row" if n == 1 else f"a decode of {n} rows", [0] * n
    for n in STREAM_COUNTS:
        yield f"a decode of one row in each of {n} streams", [*range(n)]
    for n in STREAM_COUNTS:
        yield f"a decode of {N_OF_EACH} rows in each of {n} streams", [*range(n)] * N_OF_EACH


@contextmanager
def _samples(kinds: Iterable[str]) -> Iterator[dict[str, Path]]:
    """A file of each kind, in memory where such a file has a name, else in a folder that is removed."""
    with tempfile.TemporaryDirectory() if sys.platform != "linux" else _nothing() as folder:
        paths: dict[str, Path] = {}
        for number, kind in enumerate(sorted(kinds)):
            type_name, has_experts = type_of(kind)
            if folder is None:
                descriptor = os.memfd_create("sample")
                paths[kind] = Path(f"/proc/self/fd/{descriptor}")
            else:
                paths[kind] = Path(folder) / f"{number}.gguf"
                descriptor = os.open(paths[kind], os.O_WRONLY | os.O_CREAT)
            with open(descriptor, "wb", closefd=folder is not None) as file:
                file.write(sample_model(type_name, has_experts=has_experts))
        yield paths


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


if __name__ == "__main__":
    main()
