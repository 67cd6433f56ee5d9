"""The peers of the benchmarks, set up where they are missing: `python -m tests.bench.peers`.

llama-server is built from the llama.cpp sources inside llama-cpp-python's sdist, of the version that is installed here
and with the options of its own build, so that both sides run the same kernels. llama-cpp-python's server gets an
environment of its own for its web framework, and the compiled library of this one. Both stay in the cache folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from importlib import metadata
from pathlib import Path

import llama_cpp

from models.make_bench_model import cache_dir

PACKAGE = "llama-cpp-python"
# What llama-cpp-python sets for llama.cpp's build, and no web page of llama-server.
CMAKE_FLAGS = tuple(
    f"-D{name}={value}"
    for name, value in {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "ON",
        "LLAMA_CURL": "OFF",
        "LLAMA_OPENSSL": "OFF",
        "LLAMA_BUILD_UI": "OFF",
    }.items()
)


def version() -> str:
    return metadata.version(PACKAGE)


def llama_server(given: Path | None = None) -> Path:
    """The binary: the given one, or that of the cache folder, built now if it is not there."""
    if given is not None:
        if not os.access(given, os.X_OK) or not given.is_file():
            raise FileNotFoundError(f"{given} is no program; it was named by --llama-server or LLAMA_SERVER")
        return given.resolve()
    folder = cache_dir() / f"llama-server-{version()}"
    binary = folder / "bin" / "llama-server"
    if not binary.exists():
        build(folder)
    return binary


def build(folder: Path) -> None:
    """Fetch the sdist and compile it; takes some ten minutes on two cores."""
    print(f"building llama-server of {PACKAGE} {version()} in {folder}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="llama-server-") as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run(*pip, "--no-binary", PACKAGE, "--dest", scratch, f"{PACKAGE}=={version()}")
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (sources,) = Path(scratch).glob("*/vendor/llama.cpp")
        _run("cmake", "-S", str(sources), "-B", str(folder), *CMAKE_FLAGS)
        _run("cmake", "--build", str(folder), "--target", "llama-server", "--parallel", str(os.cpu_count() or 1))


def python_server() -> Path:
    """The interpreter that runs `-m llama_cpp.server`."""
    folder = cache_dir() / f"python-server-{version()}"
    python = folder / "bin" / "python"
    is_whole = folder / "whole"
    if not is_whole.exists():
        print(f"setting up the server of {PACKAGE} {version()} in {folder}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        _run(str(python), "-m", "pip", "install", "--quiet", *server_requirements())
        # Behind its own packages come ours: the compiled llama_cpp, and numpy.
        ours = Path(llama_cpp.__file__).parent.parent
        library = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (library / "behind.pth").write_text(f"{ours}\n", encoding="utf-8")
        _run(str(python), "-c", "import llama_cpp.server.app")
        is_whole.touch()
    return python


def server_requirements() -> list[str]:
    """What the package asks for its extra `server`."""
    wanted = []
    for requirement in metadata.requires(PACKAGE) or []:
        name, _, condition = requirement.replace('"', "'").partition(";")
        if "extra" in condition and "'server'" in condition:
            wanted.append(name.strip())
    return wanted


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def features(library_folder: Path) -> str:
    """What a llama.cpp was compiled for, as it tells itself: instruction sets, OpenMP. In a process of its own."""
    code = (
        "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); lib.llama_backend_init();"
        "lib.llama_print_system_info.restype = ctypes.c_char_p; print(lib.llama_print_system_info().decode())"
    )
    library = next(path for path in sorted(library_folder.glob("libllama.*")) if path.suffix in (".so", ".dylib"))
    done = subprocess.run([sys.executable, "-c", code, str(library)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def our_features() -> str:
    return features(Path(llama_cpp.__file__).parent / "lib")


def both_features(binary: Path) -> tuple[str, str]:
    """Features of our llama.cpp and of the peer's: they must be the same for a fair comparison."""
    return our_features(), features(binary.parent)


def main() -> None:
    given = os.environ.get("LLAMA_SERVER")
    binary = llama_server(Path(given) if given else None)
    ours, theirs = both_features(binary)
    print(f"llama-server   {binary}\n  {theirs}\nours\n  {ours}")
    if ours != theirs:
        print("They differ: figures of one against the other are not fair.", file=sys.stderr)
    print(f"python server  {python_server()}")


if __name__ == "__main__":
    main()
