"""GGUF headers: what is read, and that no bytes whatever do harm."""

from __future__ import annotations

import contextlib
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.model_file import gguf
from canister.model_file.gguf import TENSOR_TYPES, TYPE_BY_NAME, GgufError, LongArray, read_gguf
from tests.engine.gguf_writer import Plain, Tensor, header_bytes, n_bytes, string, write_gguf

METADATA: dict[str, Plain] = {
    "general.architecture": "llama",
    "general.name": "A model ✓",
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "llama.attention.head_count_kv": [0, 0, 4],
    "llama.attention.pattern": [True, False],
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ["<s>", "a", "b"],
    "tokenizer.ggml.scores": [0.5] * 3000,
    "big": 2**40,
    "negative": -7,
}
TENSORS: list[Tensor] = [
    ("token_embd.weight", (256, 100), "q6_K"),
    ("blk.0.attn_norm.weight", (256,), "f32"),
    ("blk.0.attn_q.weight", (256, 64), "q4_K"),
    ("scalar", (), "f32"),
]


def whole(metadata: dict[str, Plain] | None = None, tensors: list[Tensor] | None = None) -> bytes:
    used = TENSORS if tensors is None else tensors
    return header_bytes(METADATA if metadata is None else metadata, used).ljust(60_000, b"\0")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_a_file_is_read_back(tmp_path: Path, version: int, alignment: int) -> None:
    path = write_gguf(tmp_path / "a.gguf", METADATA, TENSORS, version=version, alignment=alignment)
    file = read_gguf(path)
    assert (file.version, file.alignment, file.size) == (version, alignment, path.stat().st_size)
    assert file.data_offset % alignment == 0
    assert file.architecture == "llama"
    assert file.text("general.name") == "A model ✓"
    assert file.integer("llama.block_count") == 2
    assert file.integer("big") == 2**40
    assert file.integer("negative") == -7
    assert file.integer("tokenizer.ggml.add_bos_token") is None
    assert file.integers("llama.attention.head_count_kv") == (0, 0, 4)
    assert file.integers("llama.attention.pattern") == (1, 0)
    assert file.metadata["tokenizer.ggml.tokens"] == LongArray("string", 3)
    assert file.metadata["tokenizer.ggml.scores"] == LongArray("f32", 3000)
    assert file.count("tokenizer.ggml.tokens") == 3
    assert file.count("nothing") == 0
    assert [(t.name, t.shape, t.type.name) for t in file.tensors] == TENSORS
    assert [t.n_bytes for t in file.tensors] == [n_bytes(shape, name) for _, shape, name in TENSORS]
    assert all(t.offset % alignment == 0 for t in file.tensors)


def test_long_arrays_are_read_when_asked_for() -> None:
    file = read_gguf(whole(), keep=["tokenizer.ggml.tokens", "tokenizer.ggml.scores"])
    assert file.metadata["tokenizer.ggml.tokens"] == ("<s>", "a", "b")
    assert file.count("tokenizer.ggml.scores") == 3000


def test_a_real_model(real_model: Path) -> None:
    file = read_gguf(real_model)
    assert file.architecture == "llama"
    assert file.size == real_model.stat().st_size
    last = file.tensors[-1]
    assert file.data_offset + last.offset + last.n_bytes <= file.size


@pytest.fixture
def real_model(story_model: Path) -> Path:
    return story_model


def test_the_types_are_those_of_llama_cpp() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    for type_ in TENSOR_TYPES:
        library_name = f"GGML_TYPE_{type_.name.upper()}"
        assert getattr(llama_cpp, library_name, type_.id) == type_.id
    assert TYPE_BY_NAME["q4_K"].bits_per_element == 4.5
    assert TYPE_BY_NAME["q6_K"].bits_per_element == 6.5625
    assert TYPE_BY_NAME["tq2_0"].bits_per_element == 2.0625


def test_a_large_vocabulary_is_skipped() -> None:
    data = header_bytes({"tokens": [f"token{i}" for i in range(300_000)], "after": 1})
    file = read_gguf(data)
    assert (file.count("tokens"), file.integer("after")) == (300_000, 1)


def entry(key: str, *parts: bytes) -> bytes:
    """A file with one metadata entry made of these raw parts."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string(key) + b"".join(parts)


HUGE = struct.pack("<Q", 2**63 - 1)
ALL_ONES = b"\xff" * 8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "less than 4 bytes"),
        (b"GGM", "less than 4 bytes"),
        (b"PK\x03\x04" + bytes(100), "begins with the bytes 50 4b"),
        (b"# Title", "it begins with '# Ti', not with 'GGUF'"),
        (bytes([0, 159, 146, 150]), "it begins with the bytes 00 9f 92 96, not with 'GGUF'"),
        (b"GGUF", "cut off"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "version 1 is not supported"),
        (b"GGUF" + struct.pack("<I", 4) + bytes(16), "version 4 is not supported"),
        (b"GGUF" + struct.pack("<I", 0) + bytes(16), "version 0 is not supported"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (b"GGUF" + struct.pack("<I", 3) + ALL_ONES * 2, "more than"),
        (b"GGUF" + struct.pack("<I", 3) + HUGE + bytes(8), "more than"),
        (entry("k", struct.pack("<I", 8), HUGE), "cut off"),
        (entry("k", struct.pack("<I", 8), ALL_ONES), "cut off"),
        (entry("k", struct.pack("<II", 9, 4), HUGE), "cut off"),
        (entry("k", struct.pack("<II", 9, 8), HUGE), "more than"),
        (entry("k", struct.pack("<IIQ", 9, 8, 1000), bytes(8)), "cut off"),
        (entry("k", struct.pack("<IIQ", 9, 9, 1), struct.pack("<IQ", 4, 1), bytes(4)), "unknown type 9"),
        (entry("k", struct.pack("<I", 99), bytes(8)), "unknown type 99"),
        (entry("", struct.pack("<II", 4, 1)), "is empty"),
        (entry("general.alignment", struct.pack("<II", 4, 0)), "power of two"),
        (entry("general.alignment", struct.pack("<II", 4, 33)), "power of two"),
        (entry("general.alignment", struct.pack("<I", 8), string("x")), "power of two"),
        (header_bytes({}, [("w", (255,), "q4_K")]) + bytes(9999), "cannot have the shape"),
        (header_bytes({}, [("w", (2**40, 2**40), "f32")]) + bytes(9999), "cannot have the shape"),
        (header_bytes({}, [("w", (2**30, 2**30), "f32")]) + bytes(9999), "its tensors need"),
        (header_bytes({}, [("w", (2, 2, 2, 2, 2), "f32")]) + bytes(9999), "5 dimensions"),
        (header_bytes({}, [("w" * 64, (2,), "f32")]) + bytes(9999), "longer than 63"),
        (header_bytes({}, [("w", (2,), "f32"), ("w", (2,), "f32")]) + bytes(9999), "there twice"),
        (header_bytes({}, [("w", (64,), "f32")]) + bytes(255), "its tensors need"),
    ],
)
def test_damaged_files_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(GgufError) as caught:
        read_gguf(data)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_wrong_offset_is_refused() -> None:
    data = bytearray(whole({}, [("w", (64,), "f32")]))
    data[data.index(b"w") + 1 + 4 + 8 + 4] = 32
    with pytest.raises(GgufError, match="offset 32; it must be at 0"):
        read_gguf(bytes(data))


def test_a_duplicate_key_is_refused() -> None:
    one = string("k") + struct.pack("<II", 4, 1)
    with pytest.raises(GgufError, match="'k' is empty or there twice"):
        read_gguf(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + one + one)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "no.gguf", tmp_path):
        with pytest.raises(GgufError, match="cannot be read"):
            read_gguf(path)


def test_every_shortening_of_a_file_is_noticed() -> None:
    data = header_bytes(METADATA, TENSORS)
    data += bytes(read_gguf(whole()).tensors[-1].offset + 4)
    read_gguf(data)
    for length in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises(GgufError):
            read_gguf(data[:length])


def test_the_header_has_a_size_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    path.write_bytes(entry("k", struct.pack("<IQ", 8, 2**40)))
    with path.open("r+b") as file:
        file.truncate(2**41)
    with pytest.raises(GgufError, match="larger than"):
        read_gguf(path)
    monkeypatch.setattr(gguf, "MAX_ITEMS", 5)
    with pytest.raises(GgufError, match="more than 5 entries"):
        read_gguf(whole())


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=500)
def test_random_bytes_after_the_magic(data: bytes) -> None:
    for start in (b"", b"GGUF\x03\0\0\0", b"GGUF\x03\0\0\0\x01" + bytes(7) + b"\x02" + bytes(7)):
        with contextlib.suppress(GgufError):
            read_gguf(start + data)


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=300, deadline=1000)
def test_mutated_files(seed: int, n_changes: int) -> None:
    draw = random.Random(seed)
    data = bytearray(whole())
    end = len(header_bytes(METADATA, TENSORS))
    for _ in range(n_changes):
        data[draw.randrange(end)] = draw.choice((0, 1, 0x7F, 0xFF, draw.randrange(256)))
    with contextlib.suppress(GgufError):
        file = read_gguf(bytes(data))
        assert all(0 <= tensor.offset <= file.size for tensor in file.tensors)


WORD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
SCALAR = st.one_of(st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(width=32, allow_nan=False), WORD)


@given(st.dictionaries(WORD.filter(lambda key: key != "general.alignment"), SCALAR, max_size=8))
def test_metadata_round_trip(metadata: dict[str, bool | int | float | str]) -> None:
    assert read_gguf(header_bytes(metadata)).metadata == metadata
