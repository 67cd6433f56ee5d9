"""The cost model against figures published for the main network: `python -m tests.calibration` prints the residuals.

Each figure is computed from a real GGUF file of the model's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from canister.metering import fees
from canister.metering.cost_model import Work
from tests.shapes import Q8_0, QWEN3_06B, QWEN3_17B, QWEN25_05B, SMOLLM2_135M, Published, model_of, q4_k_m


@dataclass(frozen=True)
class Figure:
    """tolerance: relative."""

    name: str
    published: int
    compute: Callable[[], int]
    tolerance: float = 0.01

    @property
    def residual(self) -> float:
        return self.compute() / self.published - 1


def _matrices(model: Published) -> int:
    return model_of(model, Q8_0).matrices


def _four_decodes() -> int:
    cost = model_of(QWEN3_17B, q4_k_m, n_ctx=16_384, n_batch=8).cost(Work(generated=4))
    return cost.generate + cost.pagein


def _fresh_call(n_ctx: int) -> int:
    cost = model_of(QWEN3_17B, q4_k_m, n_ctx, n_batch=8).cost(Work(generated=4, sampled=4, saves=1))
    return fees.update_cycles(cost.total)


def _two_calls(prompt: int, generated: int) -> int:
    """69 tokens cached: one call takes the prompt in and samples a token, the next one generates."""
    model = model_of(QWEN3_06B, Q8_0, n_ctx=16_384)
    first = Work(loaded=69, reused=69, prompt=prompt, sampled=1, saves=2, penalized=True)
    second = Work(loaded=first.end, reused=first.end, generated=generated, sampled=generated, saves=1, penalized=True)
    return sum(fees.update_cycles(model.cost(work).total) for work in (first, second))


FIGURES = (
    Figure("Qwen2.5-0.5B Q8_0: matrices of a token", 1_211_760_000, lambda: _matrices(QWEN25_05B), 0.015),
    Figure("SmolLM2-135M Q8_0: matrices of a token", 348_480_000, lambda: _matrices(SMOLLM2_135M), 0.015),
    Figure("Qwen3-1.7B Q4_K_M: 4 decodes and page-in", 25_720_000_000, _four_decodes),
    Figure("Qwen3-1.7B Q4_K_M: cycles of a call, n_ctx 4096", 26_836_073_673, lambda: _fresh_call(4096)),
    Figure("Qwen3-1.7B Q4_K_M: cycles of a call, n_ctx 24576", 31_132_686_530, lambda: _fresh_call(24_576)),
    Figure("Qwen3-0.6B Q8_0: cycles of 2 calls, 10 + 8 tokens", 36_720_000_000, lambda: _two_calls(10, 8)),
    Figure("Qwen3-0.6B Q8_0: the same, measured again", 36_730_000_000, lambda: _two_calls(10, 8)),
    Figure("Qwen3-0.6B Q8_0: cycles of 2 calls, 10 + 11 tokens", 41_610_000_000, lambda: _two_calls(10, 11)),
    Figure("Qwen3-0.6B Q8_0: cycles of 2 calls, 12 + 10 tokens", 42_380_000_000, lambda: _two_calls(12, 10)),
    Figure("Qwen3-0.6B Q8_0: cycles of 2 calls, 12 + 9 tokens", 40_840_000_000, lambda: _two_calls(12, 9)),
)


def table() -> str:
    """The figures and residuals, as docs/cost-model.md has them."""
    lines = ["| figure | published | computed | residual |", "|---|---:|---:|---:|"]
    lines += [f"| {f.name} | {f.published:,} | {f.compute():,} | {100 * f.residual:+.2f} % |" for f in FIGURES]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
