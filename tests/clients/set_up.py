"""Installs the clients of other people that the tests here run, each set in an environment of its own.

    python tests/clients/set_up.py FOLDER [--nightly]

FOLDER gets a virtual environment for each list of Python packages below, and the packages of each `package.json`; with
--nightly those of `nightly/` alone, which are too large for every day: turbo-sdk brings 900 MB in 105 000 files, for
which npm takes a minute. What cannot be had leaves a note, and its tests skip with it. All are installed at once. The
standard library alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
AGENTS = HERE.parent / "conformance"
PYTHON = {wanted.stem: wanted for wanted in (HERE / "python").glob("*.txt")} | {
    "agents": AGENTS / "python" / "requirements.txt"
}
NODE = {wanted.parent.name: wanted.parent for wanted in HERE.glob("*/package.json")} | {"agents_node": AGENTS / "node"}
NIGHTLY = {wanted.parent.name: wanted.parent for wanted in HERE.glob("nightly/*/package.json")}
SHOWN_CHARACTERS = 400


def main(folder: Path, *, nightly: bool) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    python, node = ({}, NIGHTLY) if nightly else (PYTHON, NODE)
    with ThreadPoolExecutor() as pool:
        said = {name: pool.submit(_python, wanted, folder / name) for name, wanted in python.items()}
        said |= {name: pool.submit(_node, wanted, folder / name) for name, wanted in node.items()}
    for name, problem in sorted(said.items()):
        _tell(folder, name, problem.result())
    return 0


def _python(wanted: Path, place: Path) -> str:
    python = place / "bin" / "python"
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    return _run([sys.executable, "-m", "venv", str(place)]) or _run([*install, "-r", str(wanted)])


def _node(wanted: Path, place: Path) -> str:
    """The scripts stand beside the packages, since node looks for those from where a script lies."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    shutil.copytree(wanted, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    locked = (wanted / "package-lock.json").exists()
    how = ["ci", "--ignore-scripts"] if locked else ["install", "--no-package-lock"]
    return _run([npm, *how, "--prefix", str(place), "--no-audit", "--no-fund", "--silent"])


def _run(command: list[str]) -> str:
    """ "" when it worked, else what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout or f"exit code {done.returncode}").strip()


def _tell(folder: Path, name: str, problem: str) -> None:
    note = folder / f"{name}.missing"
    note.unlink(missing_ok=True)
    if problem:
        note.write_text(problem[-SHOWN_CHARACTERS:])
        print(f"{name}: not installed, its tests will be skipped: {problem[-SHOWN_CHARACTERS:]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), nightly="--nightly" in sys.argv[2:]))
