"""The names of the parts of a model, and what the parts are together."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from canister.errors import BadRequest
from canister.model_file.gguf import GgufFile, read_gguf
from canister.model_file.parts import MAX_PARTS, PartName, identity, joined, local_parts, names_of_parts, read_model
from canister.model_file.shape import read_shape
from tests.engine.split_models import split
from tests.engine.tiny_models import llama_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("whole") / "model.gguf", "q8_0")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a-00001-of-00003.gguf", PartName("a", 1, 3)),
        ("models/x-1-00002-of-00002.gguf", PartName("models/x-1", 2, 2)),
        ("a-00004-of-00003.gguf", None),
        ("a-00000-of-00003.gguf", None),
        ("a-1-of-3.gguf", None),
        ("a-00001-of-00003.bin", None),
        (f"a-00001-of-{MAX_PARTS + 1:05}.gguf", None),
        ("a.gguf", None),
    ],
)
def test_names(name: str, said: PartName | None) -> None:
    assert PartName.read(name) == said
    if said is not None:
        assert said.siblings()[said.number - 1] == name
        assert len(said.siblings()) == said.count


def header(**entries: int) -> GgufFile:
    return GgufFile(3, {f"split.{name}": value for name, value in entries.items()}, (), 32, 0, 0)


@pytest.mark.parametrize("count", [0, 1])
def test_a_model_whose_parts_were_joined_is_whole(count: int) -> None:
    assert names_of_parts("model.gguf", header(count=count, no=0)) == ("model.gguf",)


@pytest.mark.parametrize(
    ("name", "entries", "said"),
    [
        ("m.gguf", {"count": 3, "no": 0}, "it is part 1 of a model in 3 parts: give all of them names that say so"),
        ("m-00001-of-00002.gguf", {"count": 3, "no": 0}, "NAME-00001-of-00003.gguf"),
        ("m-00002-of-00003.gguf", {"count": 3, "no": 1}, "load the first one, m-00001-of-00003.gguf"),
        ("m-00001-of-00003.gguf", {"count": 65_535, "no": 0}, "at most 256"),
        ("m-00001-of-00003.gguf", {"count": -1, "no": 0}, "one of -1 parts"),
    ],
)
def test_parts_that_cannot_be_named(name: str, entries: dict[str, int], said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        names_of_parts(name, header(**entries))
    assert said in str(refused.value)


@pytest.mark.parametrize("n_parts", [2, 3, 7])
def test_the_parts_have_the_shape_of_the_whole(n_parts: int, whole: Path, tmp_path: Path) -> None:
    first = split(whole, n_parts, tmp_path)[0]
    assert len(local_parts(first)) == n_parts
    together, alone = read_shape(read_model(first)), read_shape(read_gguf(whole))
    n_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert together.file_bytes == n_bytes
    more = n_bytes - alone.file_bytes
    assert replace(together, file_bytes=0, weight_bytes=together.weight_bytes - more) == replace(alone, file_bytes=0)


def test_a_missing_part_is_named(whole: Path, tmp_path: Path) -> None:
    parts = split(whole, 3, tmp_path)
    parts[1].unlink()
    with pytest.raises(BadRequest, match=r"3 parts, of which 1 are missing: split-00002-of-00003\.gguf"):
        read_model(parts[0])


def test_parts_that_do_not_belong_together(whole: Path, tmp_path: Path) -> None:
    parts = split(whole, 3, tmp_path)
    headers = [read_gguf(part) for part in parts]
    for wrong, said in (
        ([headers[0], headers[2], headers[1]], "Part 2 of 3 says that it is part 3 of 3"),
        (headers[:2], "Part 1 of 2 says that it is part 1 of 3"),
        ([*headers[:2], replace(headers[2], tensors=headers[1].tensors)], "which an earlier part has"),
        ([*headers[:2], replace(headers[2], tensors=headers[2].tensors[1:])], "tensors together; the first one says"),
    ):
        with pytest.raises(BadRequest, match=said):
            joined(wrong)
    shutil.copy(whole, parts[2])
    with pytest.raises(BadRequest, match="Part 3 of 3 says that it is part 1 of None"):
        read_model(parts[0])


def test_what_stands_for_the_parts() -> None:
    a, b = b"a" * 32, b"b" * 32
    assert identity([a]) == a
    assert len({identity([a]), identity([b]), identity([a, b]), identity([b, a])}) == 4
