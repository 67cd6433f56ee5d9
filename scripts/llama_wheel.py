"""`python scripts/llama_wheel.py`: install llama-cpp-python as it is right and fast on this machine.

Where GCC compiles for x86-64, llama.cpp needs two flags: GCC 12 takes the stores that set up AMX's tiles for dead and
removes them, so that the library dies of SIGILL on processors that have AMX. pip's cache of wheels does not know flags.
The built wheel is therefore kept in a cache of our own. This script needs Python alone, nothing of the project.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python"
GCC_X86_FLAGS = "-fno-tree-dse -fno-dse"
KEPT_WHEELS = 4
COUNTED = ("CMAKE_ARGS", "FORCE_CMAKE", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")  # variables that change a build
NO_COMPILER = """\
There is no C++ compiler, and llama.cpp has to be compiled.
  Debian, Ubuntu:  apt install g++
  Fedora:          dnf install gcc-c++
  macOS:           xcode-select --install"""

Say = Callable[[str], None]


class BuildFailed(Exception):
    """No wheel; the message says what to do."""


def main() -> int:
    arguments = _arguments()
    say = _say
    try:
        version = pinned_version((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        environment = build_environment(os.environ, compiler_macros(os.environ))
        wheel = cached_wheel(arguments.cache, version, environment, say)
        if not arguments.no_install:
            install(wheel)
            say(f"{PACKAGE} {version} is installed.")
    except BuildFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    print(wheel)
    return 0


def pinned_version(pyproject: str) -> str:
    """The one version of llama-cpp-python that the project is for."""
    found = re.search(rf'"{PACKAGE}==([0-9.]+)"', pyproject)
    if found is None:
        raise BuildFailed(f"pyproject.toml pins no version of {PACKAGE}")
    return found[1]


def compiler_macros(environment: Mapping[str, str]) -> dict[str, str]:
    """What the C++ compiler says of itself: its predefined macros. BuildFailed when there is none."""
    command = shlex.split(environment.get("CXX", "")) or _first_command(("c++", "g++", "clang++"))
    try:
        told = subprocess.run(
            [*command, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildFailed(f"The compiler {' '.join(command)} does not work: {error}\n\n{NO_COMPILER}") from error
    lines = (line.split(" ", 2) for line in told.splitlines() if line.startswith("#define "))
    return {line[1]: line[2] if len(line) > 2 else "" for line in lines}


def build_environment(environment: Mapping[str, str], macros: Mapping[str, str]) -> dict[str, str]:
    """The environment for the build: with the flags where GCC compiles for x86-64.

    CMAKE_ARGS of the user stay, and so do CMAKE_CXX_FLAGS in them: the flags are put in front of those.
    """
    is_gcc = "__GNUC__" in macros and "__clang__" not in macros
    if not (is_gcc and "__x86_64__" in macros):
        return dict(environment)
    arguments = shlex.split(environment.get("CMAKE_ARGS", ""))
    option = "-DCMAKE_CXX_FLAGS="
    given = [argument.removeprefix(option) for argument in arguments if argument.startswith(option)]
    others = [argument for argument in arguments if not argument.startswith(option)]
    flags = " ".join([GCC_X86_FLAGS, *given[-1:]])
    return {**environment, "CMAKE_ARGS": shlex.join([*others, option + flags])}


def cache_key(version: str, environment: Mapping[str, str], compiler: str, processor: str) -> str:
    """What a build depends on: another value of any of these needs another wheel."""
    python = f"{sys.implementation.cache_tag} {platform.system()} {platform.machine()}"
    counted = {name: environment[name] for name in COUNTED if environment.get(name)}
    said = json.dumps([PACKAGE, version, python, compiler, processor, counted], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def cached_wheel(cache: Path, version: str, environment: Mapping[str, str], say: Say) -> Path:
    """The wheel for this machine, built if it is not in the cache; a build takes some minutes."""
    compiler = compiler_macros(environment).get("__VERSION__", "")
    folder = cache / cache_key(version, environment, compiler, processor_name())
    for wheel in folder.glob("*.whl"):
        os.utime(folder)
        say(f"{PACKAGE} {version} was compiled before for this machine: {wheel}")
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    # Whoever builds at the same time has a folder of its own; the last one to be done keeps its wheel.
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as scratch:
        wheel = build(version, environment, Path(scratch), cache / f"{folder.name}.log", say)
        folder.mkdir(exist_ok=True)
        kept = wheel.replace(folder / wheel.name)
    forget_old(cache)
    return kept


def build(version: str, environment: Mapping[str, str], folder: Path, log: Path, say: Say) -> Path:
    """Compile llama.cpp and pack it as a wheel into the folder; all that pip prints goes to the log."""
    say(f"Compiling llama.cpp ({PACKAGE} {version}); this is done once and takes 4 to 10 minutes on two cores.")
    say(f"CMAKE_ARGS: {environment.get('CMAKE_ARGS') or '(none)'}")
    say(f"Log: {log}")
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-binary", PACKAGE, "-w", str(folder), f"{PACKAGE}=={version}"]
    began = time.monotonic()
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(
            command,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in progress(_copied(process.stdout, kept)):
            say(line)
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        end = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-30:])
        raise BuildFailed(f"{end}\n{PACKAGE} could not be built (pip ended with {process.returncode}). Log: {log}")
    say(f"Compiled in {time.monotonic() - began:.0f} s.")
    return wheels[0]


def progress(lines: Iterable[str]) -> Iterable[str]:
    """A line for each tenth of the files that the compiler has done, from what ninja or make print."""
    told = 0
    for line in lines:
        found = re.match(r"\s*\[(\d+)/(\d+)\]", line) or re.match(r"\s*\[\s*(\d+)%\]", line)
        if found is None:
            continue
        tenth = 10 * int(found[1]) // int(found[2] if found.re.groups == 2 else 100)
        if tenth > told:
            told = tenth
            yield f"  {told * 10} % compiled"


def forget_old(cache: Path) -> None:
    """Keep the wheels that were used last."""
    folders = sorted(
        (path for path in cache.iterdir() if any(path.glob("*.whl"))), key=lambda path: path.stat().st_mtime
    )
    for folder in folders[:-KEPT_WHEELS]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.log").unlink(missing_ok=True)


def install(wheel: Path) -> None:
    """Put the wheel into the environment of this Python, in place of another build of the same version."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for more in (["--force-reinstall", "--no-deps", str(wheel)], [str(wheel)]):  # the second: what it depends on
        if subprocess.run([*command, *more], check=False).returncode:
            raise BuildFailed(f"pip could not install {wheel}")


def processor_name() -> str:
    """Name and abilities of the processor: llama.cpp is compiled for just this one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features")
    return " ".join(sorted({line for line in lines if line.startswith(wanted)}))


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/llama-canister/wheels`, or `~/.cache/…`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-canister" / "wheels"


def _first_command(names: Iterable[str]) -> list[str]:
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return [found]
    raise BuildFailed(NO_COMPILER)


def _copied(lines: Iterable[str], log: TextIO) -> Iterable[str]:
    for line in lines:
        print(line, end="", file=log)
        yield line


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0].partition(": ")[2])
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), metavar="DIR", help="where built wheels are kept [%(default)s]"
    )
    parser.add_argument("--no-install", action="store_true", help="only build the wheel and print its path")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
