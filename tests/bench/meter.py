"""What the meter costs for each token: `python -m tests.bench.meter`."""

from __future__ import annotations

import time

from canister.metering.cost_model import CostContext, CostModel
from canister.metering.meter import CallMeter
from canister.model_file.gguf import read_gguf
from canister.model_file.shape import read_shape
from tests.harness import CHAT_MODEL
from tests.shapes import Q8_0, QWEN3_06B, shape_of

N_STEPS = 20_000


def main() -> None:
    for name, shape in (
        ("shipped model", read_shape(read_gguf(CHAT_MODEL))),
        ("Qwen3-0.6B", shape_of(QWEN3_06B, Q8_0)),
    ):
        meter = CallMeter(CostModel(shape, CostContext(n_ctx=N_STEPS + 1)), limit=10**18)
        started = time.perf_counter()
        for position in range(N_STEPS):
            meter.admit_sample(position)
            meter.admit_decode(position)
        step_us = (time.perf_counter() - started) / N_STEPS * 1e6
        print(f"{name:<15} {step_us:6.1f} µs a token: asked before sampling and before decoding it")


if __name__ == "__main__":
    main()
