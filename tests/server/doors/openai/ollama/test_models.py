"""Numbers and names as Ollama writes them."""

from __future__ import annotations

import pytest

from canister.server.doors.openai.ollama.models import quantization, size_text


@pytest.mark.parametrize(
    ("n", "text"), [(8_030_261_248, "8.0B"), (494_030_000, "494.03M"), (1_500, "1.50K"), (12, "12")]
)
def test_sizes(n: int, text: str) -> None:
    assert size_text(n) == text


@pytest.mark.parametrize(
    ("file_type", "name"),
    [("Q4_K - Medium", "Q4_K_M"), ("Q3_K - Small", "Q3_K_S"), ("all F32", "F32"), ("Q8_0", "Q8_0"), ("F16", "F16")],
)
def test_quantizations(file_type: str, name: str) -> None:
    assert quantization(file_type) == name
