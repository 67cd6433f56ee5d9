"""What a file is good for is read in its header."""

from __future__ import annotations

import pytest

from canister.model_file.gguf import GgufFile
from canister.model_file.kind import ARCHITECTURES, why_no_chat
from tests.engine.gguf_writer import Plain


def header(architecture: str = "llama", **metadata: Plain) -> GgufFile:
    """A header with this metadata; double underscores stand for dots, `arch` for the architecture."""
    values: dict[str, object] = {"general.architecture": architecture}
    for name, value in metadata.items():
        values[name.replace("__", ".").replace("arch.", f"{architecture}.")] = value
    return GgufFile(3, values, (), 32, 0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "mamba", "lfm2", "plamo2", "rwkv7", "", "new"])
def test_what_continues_texts_is_not_refused(architecture: str) -> None:
    assert why_no_chat(header(architecture)) is None
    assert why_no_chat(header(architecture, arch__pooling_type=0, arch__attention__causal=True)) is None
    assert why_no_chat(header(architecture, general__type="model")) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_other_kind_says_what_it_is_and_does(architecture: str) -> None:
    why = why_no_chat(header(architecture))
    assert why is not None
    assert repr(architecture) in why
    assert why.startswith("it is a")
    assert why.endswith("; load a model that continues a text")
    assert "\n" not in why
    assert ". " not in why


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"arch__pooling_type": 1}, "an embedding model (architecture 'qwen3', pooling 'mean')"),
        ({"arch__pooling_type": 3}, "an embedding model (architecture 'qwen3', pooling 'last token')"),
        ({"arch__attention__causal": False}, "an embedding model (architecture 'qwen3', attention in both directions)"),
        ({"general__type": "adapter"}, "a LoRA adapter"),
        ({"general__type": "mmproj"}, "an image encoder"),
        ({"general__type": "imatrix"}, "an importance matrix"),
    ],
)
def test_a_decoder_that_was_made_into_something_else(metadata: dict[str, Plain], said: str) -> None:
    why = why_no_chat(header("qwen3", **metadata))
    assert why is not None
    assert said in why


@pytest.mark.parametrize("value", ["mean", -1, 5, 2**63, 1.0, True, (1, 2), (), False])
def test_values_that_mean_nothing_are_left_to_the_trial(value: Plain) -> None:
    assert why_no_chat(header("qwen3", arch__pooling_type=value)) is None
    if value is not False:
        assert why_no_chat(header("qwen3", arch__attention__causal=value)) is None
