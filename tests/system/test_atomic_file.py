"""Small files beside the canisters: whole or not there, private, and nothing left lying about."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canister.system import atomic_file

Put = Callable[[Path, bytes], None]


def test_new_contents_replace_the_old(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old and readable")
    path.chmod(0o644)
    atomic_file.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_is_not_created_again(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    atomic_file.create(path, b"first")
    with pytest.raises(FileExistsError):
        atomic_file.create(path, b"second")
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("put", [atomic_file.write, atomic_file.create])
def test_what_fails_leaves_nothing(tmp_path: Path, put: Put) -> None:
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        put(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("put", [atomic_file.write, atomic_file.create])
def test_contents_are_synced_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Put
) -> None:
    done: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            done.append("sync folder" if is_folder else "sync contents" if name == "fsync" else "name")
            return real(*arguments)

        return call

    for name in ("fsync", "link", "replace"):
        monkeypatch.setattr(os, name, noting(name))
    put(tmp_path / "file", b"x")
    assert done == ["sync contents", "name", "sync folder"]


def test_a_large_file_is_there_when_it_is_whole_and_readable_as_others(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with atomic_file.writing(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    (tmp_path / "other").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_of_a_large_file_that_fails_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"before")

    def fails() -> None:
        with atomic_file.writing(path) as file:
            file.write(b"half")
            raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        fails()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
