"""The child process of `trial.py`: loads the model files named on stdin, uses them a little, and reports.

It runs `loader.load` as the server would, and imports nothing else. A file that crashes llama.cpp ends this process.
stdin: {"files", "attempts", "looks_at_memory", "memory_bytes", "seconds"}; stdout, a line each: ["loading"],
["decoding"], ["memory", its stage, what is known by then], and at the end of each attempt ["end", its number, what is
wrong or null, what was found out about its memory].
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from canister.engine.devices import open_devices
from canister.engine.llama import Context, Model
from canister.engine.llama_types import EngineFault, ModelError, Placed
from canister.engine.load.child import DECODING, LOADING, MEMORY, limit, say, task
from canister.engine.load.embedding_loader import load_embedder
from canister.engine.load.loaded import Loaded, LoadedEmbedder, LoadParams
from canister.engine.load.loader import load, load_model
from canister.engine.load.memory_trial import N_CELLS, N_OUTPUTS, N_ROWS, MemoryTraits, to_json, try_memory
from canister.engine.load.ways import Restrictions
from canister.errors import CanisterError
from canister.flags.parse import PlacementParams, RopeParams
from canister.system import sandbox
from canister.system.machine import usable_cores

ROW_COUNTS = (1, 2, 3, 8, 33)  # of a prompt chunk, whatever it costs
DRIVER_FILES = 256  # that drivers of devices may open
MULTIPLICATIONS = 1e11  # of the largest chunk that the server decodes; they take a few seconds at most
# Everything that a text can hold. Each byte of UTF-8 appears, also where it has no token of its own.
TEXT = "".join(map(chr, [*range(1, 0x800), *range(0x800, 0xFFF0, 997), *range(0x10000, 0x110000, 65_521)])) + "😀" * 9


def main() -> None:
    asked = task()
    files = [Path(file) for file in asked["files"]]
    placements = [_placed(fields.pop("placed", None)) for fields in asked["attempts"]]
    if is_offloaded := any(placed.is_offloaded for placed in placements):
        open_devices()
    n_files = 2 * len(files) + (DRIVER_FILES if is_offloaded else 0)
    # Drivers map the memory of devices and of the machine, which takes addresses and no memory.
    limit(resource.RLIM_INFINITY if is_offloaded else asked["memory_bytes"], asked["seconds"], n_files)
    libraries = [Path(folder) for folder in (*sys.path, os.environ.get("LLAMA_CPP_LIB_PATH")) if folder]
    # ggml asks the system for cores and memory; python may still import a module.
    usable = [*files, Path("/proc"), Path("/sys"), *libraries]
    sandbox.confine_trial(usable, sandbox.device_nodes() if is_offloaded else ())
    for number, (fields, placed) in enumerate(zip(asked["attempts"], placements, strict=True)):
        params = LoadParams(
            path=files[0],
            more_paths=tuple(files[1:]),
            rope=RopeParams(**fields.pop("rope")),
            restrictions=Restrictions(*fields.pop("restrictions")),
            # Without the measurements, since every way that they may lead to is an attempt of its own.
            exact="off",
            n_threads=usable_cores(),
            placed=placed,
            **fields,
        )
        fault, memory = attempt(params, reads_vocabulary=number == 0, looks_at_memory=asked["looks_at_memory"])
        asked["looks_at_memory"] &= fault is not None  # the server uses the first way that survives
        say("end", number, fault, to_json(memory))
    os._exit(0)  # the kernel frees the rest


def _placed(told: dict[str, Any] | None) -> Placed:
    """As `asdict` has made it; None for the processor alone."""
    if told is None:
        return Placed()
    params = told["params"] | {"tensor_split": tuple(told["params"]["tensor_split"])}
    return Placed(PlacementParams(**params), tuple(told["devices"]))


def attempt(params: LoadParams, *, reads_vocabulary: bool, looks_at_memory: bool) -> tuple[str | None, MemoryTraits]:
    """What is wrong with the file, None for nothing, and how its memory works."""
    try:
        say(LOADING)
        model = load_model(params)
        if reads_vocabulary:
            read_vocabulary(model, params.name)
        say(DECODING)
        if params.pooling:
            embed(load_embedder(params, model), params)
            return None, MemoryTraits()
        loaded = load(params, model)
        decode(loaded)
        loaded.context.close()
        return None, look_at_memory(loaded) if looks_at_memory else MemoryTraits()
    except (CanisterError, EngineFault, MemoryError) as refused:
        return str(refused) or "not enough memory", MemoryTraits()


def read_vocabulary(model: Model, name: str) -> None:
    """Read everything that the server reads of a vocabulary. Raises ModelError."""
    if model.n_vocab < 1:
        raise ModelError(f"Cannot load the model {name}: its vocabulary is empty")
    for special in (False, True):
        model.tokenize(TEXT, add_bos=True, special=special)
        for token in range(model.n_vocab):
            model.piece(token, special)
    model.tokenize_framed(TEXT)
    _ = model.eog_tokens


def decode(loaded: Loaded) -> None:
    """Decode chunks of a prompt as a server does. Raises ModelError."""
    context, n_vocab = loaded.context, loaded.model.n_vocab
    n_cells, n_rows = context.params.n_cells, context.params.n_rows
    for n in _row_counts(loaded, min(n_rows, n_cells)):
        context.clear(0)
        _decode(loaded, [0] * n, range(n), [(n_vocab - 1 - row) % n_vocab for row in range(n)])


def embed(loaded: LoadedEmbedder, params: LoadParams) -> None:
    """Make vectors of texts of many lengths, alone and together, as a server does. Raises ModelError."""
    context, n_vocab = loaded.context, loaded.model.n_vocab
    n_streams, n_rows = context.params.n_streams, context.params.n_rows
    most = min(n_rows, loaded.info.n_ctx) if params.reads_whole else n_rows
    for n in _row_counts(loaded, most):
        _embed(loaded, [0] * n, range(n), [(n_vocab - 1 - row) % n_vocab for row in range(n)])
    n_texts = min(n_streams, n_rows // 2)
    if n_texts > 1:
        streams = [row // 2 for row in range(2 * n_texts)]
        _embed(
            loaded, streams, [row % 2 for row in range(len(streams))], [row % n_vocab for row in range(len(streams))]
        )
    if not params.reads_whole and loaded.info.n_ctx > 1:
        for position in range(2):  # a text in pieces
            context.embed([0], [position], [0])
    context.close()


def _row_counts(loaded: Loaded | LoadedEmbedder, most: int) -> list[int]:
    """Sizes of decodes to try."""
    affordable = int(MULTIPLICATIONS // max(1, loaded.model.n_params))
    return sorted({n for n in (*ROW_COUNTS, min(most, affordable)) if 0 < n <= most})


def _embed(loaded: LoadedEmbedder, streams: list[int], positions: range | list[int], tokens: list[int]) -> None:
    loaded.context.embed(streams, positions, tokens)
    for stream in dict.fromkeys(streams):
        if not np.isfinite(loaded.context.embedding(stream)).all():
            raise ModelError(f"Cannot load the model {loaded.info.name}: what it computes are no numbers")
        loaded.context.forget(stream)


def look_at_memory(loaded: Loaded) -> MemoryTraits:
    """How the model's memory treats several chats, in contexts like the server's."""
    shape = replace(loaded.context.params, n_cells=N_CELLS, n_rows=N_ROWS, n_outputs=N_OUTPUTS)

    def make(n_streams: int) -> Context:
        return Context(loaded.model, replace(shape, n_streams=n_streams), loaded.info.name)

    return try_memory(make, loaded.model.n_vocab, lambda stage, found: say(MEMORY, stage, to_json(found)))


def _decode(loaded: Loaded, streams: range | list[int], positions: range | list[int], tokens: list[int]) -> None:
    last = {stream: row for row, stream in enumerate(streams)}
    loaded.context.decode(list(streams), list(positions), tokens, list(last.values()))
    if not any(np.isfinite(loaded.context.logits(row)).any() for row in last.values()):
        raise ModelError(f"Cannot load the model {loaded.info.name}: what it computes are no numbers")


if __name__ == "__main__":
    main()
