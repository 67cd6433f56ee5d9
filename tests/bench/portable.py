"""Which libraries of kernels give the same bits: `python -m tests.bench.portable MODEL OUT.npz [OTHER.npz]`.

Writes the logits of 320 tokens, decoded together and one by one, with the libraries in LLAMA_CPP_LIB_PATH (a copy of
the package's `lib` folder, with another libggml-cpu in it), and compares them with those that another run has written.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canister.engine.llama import Context
from canister.engine.llama_types import ContextParams
from canister.engine.load.loaded import LoadParams
from canister.engine.load.loader import load_model

N_TOKENS, N_CELLS = 320, 512  # sums over few tokens come out the same in registers of any width


def measure(file: Path) -> dict[str, NDArray[np.float32]]:
    """Logits of each row, decoded together and one by one."""
    model = load_model(LoadParams(path=file, n_ctx=N_CELLS))
    context = Context(model, ContextParams(1, N_CELLS, N_TOKENS, 1, n_outputs=N_TOKENS), file.name)
    tokens = np.random.default_rng(0).integers(0, model.n_vocab, N_TOKENS).astype(np.int32)
    started = time.process_time()
    context.decode([0] * N_TOKENS, range(N_TOKENS), tokens, range(N_TOKENS))
    together = np.stack([context.logits(row).copy() for row in range(N_TOKENS)])
    middle = time.process_time()
    context.clear(0)
    alone = []
    for place in range(N_TOKENS):
        context.decode([0], [place], tokens[place : place + 1], [0])
        alone.append(context.logits(0).copy())
    context.close()
    ended = time.process_time()
    times = f"together {middle - started:.3f} s, one by one {ended - middle:.3f} s"
    print(f"{N_TOKENS} tokens on one thread, CPU time: {times}")
    return {"together": together, "one by one": np.stack(alone)}


def told(one: NDArray[np.float32], other: NDArray[np.float32]) -> str:
    return "same bits" if np.array_equal(one, other) else f"differ, by up to {np.abs(one - other).max():.4g}"


def main() -> None:
    file, out, *others = map(Path, sys.argv[1:])
    found = measure(file)
    np.savez(out, **found)  # type: ignore[arg-type]
    print(f"together and one by one: {told(found['together'], found['one by one'])}")
    for other in others:
        known = np.load(other)
        for way, logits in found.items():
            print(f"{way}, beside {other.name}: {told(logits, known[way])}")


if __name__ == "__main__":
    main()
