"""Models of llama2.c as GGUF: llama.cpp computes what llama2.c's arithmetic does, and damaged files leave nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from canister.ao.llama2c.convert import convert
from canister.ao.llama2c.export import export
from canister.ao.llama2c.layout import Llama2cError
from canister.model_file.gguf import read_gguf
from tests.ao.llama2c import reference
from tests.ao.llama2c.reference import Model
from tests.harness import CHAT_MODEL, STORY_MODEL, needs_story_model

TOLERANCE = 6e-3
TOKENS = [1, 270, 33, 290, 261, 5, 280, 12]

SHAPES = {
    "grouped heads": Model(),
    "shared output": Model(shared=True),
    "one head of keys": Model(dim=32, hidden=64, layers=1, heads=4, kv=1, shared=True),
    "odd feed-forward": Model(hidden=172, heads=8, kv=4, shared=True),
}


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    def make(model: Model, version: int, group: int = 32) -> tuple[Path, Path]:
        files = tmp_path / "model.bin", tmp_path / "tokenizer.bin"
        reference.write_model(files[0], model, version, group)
        reference.write_tokenizer(files[1], reference.vocabulary(model.vocab))
        return files

    return make


def computed(path: Path, tokens: list[int]) -> reference.Array:
    """llama.cpp's logits after the last token."""
    with_f32 = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    model = llama_cpp.Llama(str(path), n_ctx=48, n_threads=1, logits_all=True, verbose=False, **with_f32)
    try:
        model.eval(tokens)
        return np.array(model.scores[len(tokens) - 1])
    finally:
        model.close()


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_llama2c(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path, name: str, version: int
) -> None:
    model = SHAPES[name].fill(seed=version)
    group = 4 if model.hidden % 32 else 32
    convert(*made(model, version, group), tmp_path / "out.gguf")
    held = reference.rounded(model, group) if version == 2 else model
    expected = reference.logits(held, TOKENS)
    assert expected.std() > 0.5  # so that the tolerance tells something
    assert np.abs(computed(tmp_path / "out.gguf", TOKENS) - expected).max() < TOLERANCE


@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize("version", [0, 2])
def test_int8_weights_are_close_to_llama2cs(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path, version: int, group: int
) -> None:
    model = Model().fill(seed=7)
    convert(*made(model, version, group), tmp_path / "out.gguf", "q8_0")
    kinds = {tensor.name: tensor.type.name for tensor in read_gguf(tmp_path / "out.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "f32"
    expected = reference.logits(model, TOKENS)
    assert np.abs(computed(tmp_path / "out.gguf", TOKENS) - expected).max() < 0.15 * expected.std()


def test_rows_that_are_no_whole_blocks_stay_f32(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    convert(*made(Model(hidden=172).fill(1), 0), tmp_path / "out.gguf", "q8_0")
    kinds = {tensor.name: tensor.type.name for tensor in read_gguf(tmp_path / "out.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "f32"
    assert kinds["blk.0.ffn_up.weight"] == "q8_0"


def test_int8_of_version_2_is_kept_as_it_is(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    model = Model().fill(seed=3)
    convert(*made(model, 2, 32), tmp_path / "out.gguf", "q8_0")
    file = read_gguf(tmp_path / "out.gguf")
    tensor = next(tensor for tensor in file.tensors if tensor.name == "blk.1.attn_q.weight")
    data = (tmp_path / "out.gguf").read_bytes()[file.data_offset + tensor.offset :][: tensor.n_bytes]
    blocks = np.frombuffer(data, np.uint8).reshape(-1, 34)
    assert (blocks[:, 2:].view(np.int8) == reference.quantized(model.w["wq"][1], 32)[0]).all()


def test_the_vocabulary_is_that_of_the_file(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    convert(*made(Model().fill(0), 0), tmp_path / "out.gguf")
    model = llama_cpp.Llama(str(tmp_path / "out.gguf"), vocab_only=True, verbose=False)
    assert model.tokenize("the theé!".encode(), add_bos=True) == [1, 263, 263, 260, 3 + ord("!")]
    assert model.detokenize([263, 260, 3 + 0x41], special=True) == " theéA".encode()
    assert (model.token_bos(), model.token_eos()) == (1, 2)
    model.close()


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("shared", [False, True])
def test_back_gives_the_same_bytes(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path, version: int, shared: bool
) -> None:
    model, tokenizer = made(Model(shared=shared).fill(5), version)
    convert(model, tokenizer, tmp_path / "out.gguf")
    export(tmp_path / "out.gguf", tmp_path / "back.bin", tmp_path / "back.tok", version)
    assert (tmp_path / "back.bin").read_bytes() == model.read_bytes()
    assert (tmp_path / "back.tok").read_bytes() == tokenizer.read_bytes()


def test_back_to_int8_is_what_llama2cs_exporter_writes(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    model = Model(hidden=172).fill(5)  # groups of 64 span rows of 172
    convert(*made(model, 1), tmp_path / "out.gguf")
    export(tmp_path / "out.gguf", tmp_path / "back.bin", tmp_path / "back.tok", 2, 64)
    reference.write_model(tmp_path / "expected.bin", model, 2, 64)
    assert (tmp_path / "back.bin").read_bytes() == (tmp_path / "expected.bin").read_bytes()


@needs_story_model
@pytest.mark.parametrize("version", [0, 1])
def test_a_model_out_and_back_tells_the_same_story(tmp_path: Path, version: int) -> None:
    export(STORY_MODEL, tmp_path / "model.bin", tmp_path / "tokenizer.bin", version)
    convert(tmp_path / "model.bin", tmp_path / "tokenizer.bin", tmp_path / "back.gguf")

    def story(path: Path) -> str:
        model = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False)
        told = model("Once upon a time", max_tokens=120, temperature=0.0)
        model.close()
        return str(told["choices"][0]["text"])  # type: ignore[index]

    assert len(story(STORY_MODEL)) > 100
    assert story(tmp_path / "back.gguf") == story(STORY_MODEL)


def test_every_cut_and_every_byte_more_is_refused_and_leaves_nothing(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    for version in (0, 1, 2):
        model, tokenizer = made(Model(dim=32, hidden=32, layers=1, vocab=265).fill(1), version)
        whole, words = model.read_bytes(), tokenizer.read_bytes()
        cuts = [0, 1, 3, 4, 27, 28, 35, 100, 255, 256, 257, len(whole) // 2, len(whole) - 1]
        for path, data in [(model, whole), (tokenizer, words)]:
            for cut in [cut for cut in cuts if cut < len(data)]:
                path.write_bytes(data[:cut])
                _refused(model, tokenizer, tmp_path, path)
            path.write_bytes(data + b"\0")
            _refused(model, tokenizer, tmp_path, path)
            path.write_bytes(data)


def test_a_damaged_header_is_refused_or_is_another_sound_one(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    draw, n_refused = random.Random(5), 0
    for version in (0, 1, 2):
        model, tokenizer = made(Model(dim=32, hidden=32, layers=1, vocab=265).fill(1), version)
        whole = model.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            at = draw.randrange(4 if version else 0, 28 if version == 0 else 41)
            data[at] = draw.choice([0, 1, 127, 128, 255, data[at] ^ (1 << draw.randrange(8))])
            model.write_bytes(data)
            try:
                convert(model, tokenizer, tmp_path / "out.gguf")
            except Llama2cError:
                n_refused += 1
            else:  # heads, context and flags may be other ones without another size
                assert len(read_gguf(tmp_path / "out.gguf").tensors) in (11, 12)
                (tmp_path / "out.gguf").unlink()
            assert sorted(tmp_path.iterdir()) == [model, tokenizer]
    assert n_refused > 90


def test_a_negative_vocabulary_is_one_of_version_0_alone(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    model, tokenizer = made(Model(vocab=300).fill(1), 1)
    data = bytearray(model.read_bytes())
    data[28:32] = (-300).to_bytes(4, "little", signed=True)
    model.write_bytes(data)
    assert "the vocabulary has -300 tokens" in _refused(model, tokenizer, tmp_path, model)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_weights_that_are_no_numbers_are_refused(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path, version: int, bad: float
) -> None:
    model = Model().fill(1)
    model.w["ffn"][1, 3] = bad
    assert "blk.1.ffn_norm.weight" in _refused(*made(model, version), tmp_path, tmp_path / "model.bin")


def test_what_was_there_stays_when_a_file_is_refused(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    model, tokenizer = made(Model().fill(1), 0)
    model.write_bytes(model.read_bytes()[:-8])
    (tmp_path / "out.gguf").write_bytes(b"earlier")
    with pytest.raises(Llama2cError, match="cut off"):
        convert(model, tokenizer, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == b"earlier"


def test_a_file_does_not_replace_what_it_is_made_of(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    model, tokenizer = made(Model().fill(1), 0)
    before = model.read_bytes()
    with pytest.raises(Llama2cError, match="another file"):
        convert(model, tokenizer, model)
    assert model.read_bytes() == before


def test_a_model_that_llama2c_cannot_hold_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(Llama2cError, match="its tokenizer is 'gpt2'"):
        export(CHAT_MODEL, tmp_path / "model.bin", tmp_path / "tokenizer.bin")
    assert not list(tmp_path.iterdir())


def test_weights_too_large_for_halves_are_refused_as_q8_0(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    model = Model().fill(1)
    model.w["wo"][0, 0, 0] = 1e8 * 127
    with pytest.raises(Llama2cError, match="--type f32"):
        convert(*made(model, 0), tmp_path / "out.gguf", "q8_0")
    assert not (tmp_path / "out.gguf").exists()


def _refused(model: Path, tokenizer: Path, folder: Path, named: Path) -> str:
    before = sorted(folder.iterdir())
    with pytest.raises(Llama2cError) as refusal:
        convert(model, tokenizer, folder / "out.gguf")
    assert str(refusal.value).startswith(f"{named}: ")
    assert sorted(folder.iterdir()) == before
    return str(refusal.value)
