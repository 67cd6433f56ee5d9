"""The child process of `trial.py`: loads the model files named on stdin, uses it a little, and tells how it was.

It runs what the server would run, `loading.load`, and no more is imported. If the file makes llama.cpp crash, it is
this process that ends. stdin: {"files", "params", "memory_bytes", "seconds"}; stdout: {"error": text or null}.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from canister import confine
from canister.engine.args import RopeParams
from canister.engine.llama import UNQUANTIZED, ModelError
from canister.engine.loading import Loaded, LoadParams, load
from canister.errors import CanisterError

MAX_OPEN_FILES = 64
# Everything that a text can hold: each byte of UTF-8 appears, also as what has no token of its own.
TEXT = "".join(map(chr, [*range(1, 0x800), *range(0x800, 0xFFF0, 997), *range(0x10000, 0x110000, 65_521)])) + "😀" * 9


def main() -> None:
    task = json.load(sys.stdin.buffer)
    files = [Path(file) for file in task["files"]]
    _limit(task["memory_bytes"], task["seconds"], MAX_OPEN_FILES + 2 * len(files))
    # ggml asks the system for cores and memory; python may still import a module.
    confine.confine_trial([*files, Path("/proc"), Path("/sys"), *(Path(folder) for folder in sys.path if folder)])
    rope = RopeParams(**task["params"].pop("rope"))
    try:
        for params in attempts(LoadParams(path=files[0], more_paths=tuple(files[1:]), rope=rope, **task["params"])):
            use(load(params))
        error = None
    except (CanisterError, MemoryError) as refused:
        error = str(refused) or "not enough memory"
    sys.stdout.write(json.dumps({"error": error}))
    sys.stdout.flush()
    os._exit(0)  # what is left to free is the kernel's


def attempts(params: LoadParams) -> list[LoadParams]:
    """The ways in which the server may run the model, each without the measurements that tell which it will be."""
    params = replace(params, exact="off", n_threads=1)
    if params.flash_attn != "auto" or params.type_v not in UNQUANTIZED:
        return [params]
    return [replace(params, flash_attn=way) for way in ("off", "on")]


def use(loaded: Loaded) -> None:
    """Decode two tokens, and ask for all that the server asks of a vocabulary. ModelError."""
    model, context = loaded.model, loaded.context
    if model.n_vocab < 1:
        raise ModelError(f"Cannot load the model {loaded.info.name}: its vocabulary is empty")
    for position, token in enumerate((0, model.n_vocab - 1)):
        context.decode([0], [position], [token], [0])
        if not np.isfinite(context.logits(0)).any():
            raise ModelError(f"Cannot load the model {loaded.info.name}: what it computes are no numbers")
    for special in (False, True):
        model.tokenize(TEXT, add_bos=True, special=special)
        for token in range(model.n_vocab):
            model.piece(token, special)
    _ = model.eog_tokens


def _limit(memory_bytes: int, seconds: int, n_files: int) -> None:
    limits = [
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, n_files),
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
        # If memory runs out, let it be this process; a confined server's child may not say so.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
