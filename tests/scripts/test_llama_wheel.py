"""`scripts/llama_wheel.py`: the flags, the cache that knows them, and a build by pip that tells its flags."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts import llama_wheel

SCRIPT = Path(llama_wheel.__file__)
VERSION = llama_wheel.pinned_version((llama_wheel.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GCC = {"__GNUC__": "12", "__x86_64__": "1", "__VERSION__": '"12.2.0"'}
FLAGS = "-fno-tree-dse -fno-dse"
# A build backend in one file: the wheel's only module tells the CMAKE_ARGS that it was built with.
BACKEND = """
import os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    print("[1/2] one"); print("[2/2] two")
    if os.environ.get("CXXFLAGS") == "-fail":
        raise SystemExit("error: this compiler is broken")
    name = "llama_cpp_python-VERSION-py3-none-any.whl"
    info = "llama_cpp_python-VERSION.dist-info/"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("told_flags.py", "FLAGS = %r" % os.environ.get("CMAKE_ARGS"))
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: llama-cpp-python\\nVersion: VERSION\\n")
        tags = "Root-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: t\\n" + tags)
        wheel.writestr(info + "RECORD", "")
    return name
"""


@pytest.mark.parametrize(
    ("macros", "given", "expected"),
    [
        (GCC, None, f"-DCMAKE_CXX_FLAGS={FLAGS}"),
        (GCC, "-DGGML_NATIVE=OFF", f"-DGGML_NATIVE=OFF -DCMAKE_CXX_FLAGS={FLAGS}"),
        (GCC, "-DCMAKE_CXX_FLAGS='-O2 -g' -DX=1", f"-DX=1 -DCMAKE_CXX_FLAGS={FLAGS} -O2 -g"),
        ({**GCC, "__clang__": "1"}, "-DX=1", "-DX=1"),
        ({"__GNUC__": "12", "__aarch64__": "1"}, None, None),
    ],
)
def test_gcc_on_x86_gets_the_flags(macros: dict[str, str], given: str | None, expected: str | None) -> None:
    environment = {"HOME": "/nowhere"} | ({} if given is None else {"CMAKE_ARGS": given})
    built = llama_wheel.build_environment(environment, macros)
    told = built.get("CMAKE_ARGS")
    assert (told if told is None else told.replace("'", "")) == expected
    assert built["HOME"] == "/nowhere"


def test_every_dependence_of_a_build_is_in_its_key() -> None:
    base = ("1.0", {"CMAKE_ARGS": "-DX=1", "HOME": "/a"}, "12.2", "Xeon amx")
    key = llama_wheel.cache_key(*base)
    assert key == llama_wheel.cache_key("1.0", {"CMAKE_ARGS": "-DX=1", "HOME": "/b"}, "12.2", "Xeon amx")
    others = [
        ("1.1", *base[1:]),
        ("1.0", {"CMAKE_ARGS": "-DX=2"}, *base[2:]),
        ("1.0", {**base[1], "CXX": "clang++"}, *base[2:]),
        (*base[:2], "13.1", "Xeon amx"),
        (*base[:3], "EPYC"),
    ]
    assert len({key, *(llama_wheel.cache_key(*other) for other in others)}) == 1 + len(others)


def test_progress_tells_each_tenth_once() -> None:
    lines = ["Collecting x", *(f"  [{n}/193] /usr/bin/g++ -c x.cpp" for n in range(1, 194)), "done"]
    assert list(llama_wheel.progress(lines)) == [f"  {n}0 % compiled" for n in range(1, 11)]


def test_a_missing_compiler_is_told_with_the_way_out(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "CXX": ""}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--cache", tmp_path / "cache"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "apt install g++" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder with a source distribution of that name and version, for pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    root = f"llama_cpp_python-{VERSION}"
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.replace("VERSION", VERSION),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: {VERSION}\n",
    }
    with tarfile.open(folder / f"{root}.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return folder


def run(index: Path, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script as the set-up runs it, without the installation; pip finds the small package alone."""
    command = [sys.executable, SCRIPT, "--no-install", "--cache", cache]
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(command, env={**os.environ, **pip, **environment}, capture_output=True, text=True)


def test_a_wheel_is_built_once_for_its_flags(index: Path, tmp_path: Path) -> None:
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this environment has no pip")
    cache = tmp_path / "cache"
    first = run(index, cache)
    assert first.returncode == 0, first.stderr
    assert "100 % compiled" in first.stderr
    wheel = Path(first.stdout.strip())
    with zipfile.ZipFile(wheel) as opened:
        told = opened.read("told_flags.py").decode()
    macros = llama_wheel.compiler_macros(os.environ)
    is_gcc = "__clang__" not in macros and "__x86_64__" in macros
    assert (FLAGS in told) == is_gcc

    again = run(index, cache)
    assert Path(again.stdout.strip()) == wheel
    assert "compiled before" in again.stderr

    other = run(index, cache, CMAKE_ARGS="-DGGML_NATIVE=OFF")
    assert Path(other.stdout.strip()) != wheel
    assert wheel.exists()

    failed = run(index, cache, CXXFLAGS="-fail")
    assert failed.returncode == 1
    assert "this compiler is broken" in failed.stderr
    (log,) = re.findall(r"Log: (.*)", failed.stderr.splitlines()[-1])
    assert "this compiler is broken" in Path(log).read_text(encoding="utf-8")


def test_the_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    for number in range(llama_wheel.KEPT_WHEELS + 2):
        folder = tmp_path / f"k{number}"
        folder.mkdir()
        (folder / "a.whl").touch()
        (tmp_path / f"k{number}.log").touch()
        os.utime(folder, (number, number))
    llama_wheel.forget_old(tmp_path)
    kept = {f"k{number}" for number in range(2, llama_wheel.KEPT_WHEELS + 2)}
    assert {path.name.removesuffix(".log") for path in tmp_path.iterdir()} == kept
