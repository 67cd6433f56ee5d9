"""`canister ao convert` and `export`, as a person types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from canister.cli import app
from canister.model_file.gguf import read_gguf
from tests.ao.llama2c import reference
from tests.ao.llama2c.reference import Model


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    model = Model().fill(1)
    reference.write_model(tmp_path / "model.bin", model, 0)
    reference.write_tokenizer(tmp_path / "tokenizer.bin", reference.vocabulary(model.vocab))
    return [str(tmp_path / name) for name in ("model.bin", "tokenizer.bin", "out.gguf")]


def test_a_model_is_converted_and_exported(files: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["ao", "convert", *files, "--type", "q8_0"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "3 layers of width 64, a vocabulary of 300 tokens, a context of 48, q8_0, from version 0" in done.stdout
    assert read_gguf(files[2]).integer("general.file_type") == 7
    back = [str(tmp_path / "back.bin"), str(tmp_path / "back.tok")]
    done = CliRunner().invoke(app, ["ao", "export", files[2], *back, "--version", "2"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert Path(back[1]).read_bytes() == Path(files[1]).read_bytes()


def test_a_damaged_file_is_a_sentence_and_no_output(files: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    from canister.cli import main

    Path(files[0]).write_bytes(b"damaged")
    with pytest.raises(SystemExit) as end:
        main(["ao", "convert", *files])
    assert end.value.code == 1
    assert capfd.readouterr().err.startswith(f"canister: {files[0]}: it has 7 bytes")
    assert not Path(files[2]).exists()


def test_an_unknown_type_is_wrong_usage(files: list[str]) -> None:
    done = CliRunner().invoke(app, ["ao", "convert", *files, "--type", "q4_0"])
    assert done.exit_code == 2
    assert "f32, q8_0" in done.stderr
