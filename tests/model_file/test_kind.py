"""What a file is good for is read in its header."""

from __future__ import annotations

import pytest

from canister.model_file.gguf import GgufFile
from canister.model_file.kind import ARCHITECTURES, Embedding, embedding_of, why_no_chat, why_not_run
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


@pytest.mark.parametrize(
    ("architecture", "metadata", "found", "reads_whole"),
    [
        ("bert", {"arch__pooling_type": 2}, Embedding("cls", is_causal=False), True),
        ("bert", {}, Embedding("mean", is_causal=False), True),
        ("nomic-bert", {"arch__pooling_type": 1, "arch__attention__causal": False}, Embedding("mean", False), True),
        # llama.cpp reads such a model both ways, whatever the header says.
        ("gemma-embedding", {"arch__attention__causal": True}, Embedding("mean", is_causal=False), True),
        ("qwen3", {"arch__pooling_type": 3}, Embedding("last", is_causal=True), False),
        ("qwen3", {"arch__pooling_type": 1}, Embedding("mean", is_causal=True), True),
        ("qwen3", {"arch__pooling_type": 3, "arch__attention__causal": False}, Embedding("last", False), True),
        ("llama", {"arch__attention__causal": False}, Embedding("mean", is_causal=False), True),
    ],
)
def test_how_embeddings_are_made(
    architecture: str, metadata: dict[str, Plain], found: Embedding, reads_whole: bool
) -> None:
    file = header(architecture, **metadata)
    assert embedding_of(file) == found
    assert found.reads_whole == reads_whole
    assert why_not_run(file) is None
    assert why_no_chat(file) is not None


@pytest.mark.parametrize(
    ("architecture", "metadata"),
    [
        ("llama", {}),
        ("qwen3", {"arch__pooling_type": 0}),
        ("qwen3", {"arch__pooling_type": 4}),
        ("qwen3", {"arch__pooling_type": 5}),
        ("bert", {"arch__pooling_type": 4}),
        ("t5encoder", {}),
        ("dream", {}),
        ("bert", {"general__type": "vocab"}),
    ],
)
def test_what_makes_no_embeddings(architecture: str, metadata: dict[str, Plain]) -> None:
    file = header(architecture, **metadata)
    assert embedding_of(file) is None
    assert why_not_run(file) == why_no_chat(file)
