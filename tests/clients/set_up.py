"""Installs the clients of other people that the tests here run, each set in an environment of its own.

    python tests/clients/set_up.py FOLDER

FOLDER gets a virtual environment for each `python/*.txt`, and the packages of each `*/package.json`. What cannot be had
leaves a note, and its tests skip with it. The standard library alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SHOWN_CHARACTERS = 400


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for wanted in sorted((HERE / "python").glob("*.txt")):
        place = folder / wanted.stem
        python = place / "bin" / "python"
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-r", str(wanted)]
        _tell(folder, wanted.stem, _run([sys.executable, "-m", "venv", str(place)]) or _run(install))
    npm = shutil.which("npm")
    for wanted in sorted(HERE.glob("*/package.json")):
        name = wanted.parent.name
        _tell(folder, name, _node(npm, name, folder / name) if npm else "npm is not installed")
    return 0


def _node(npm: str, name: str, place: Path) -> str:
    """The scripts stand beside the packages, since node looks for those from where a script lies."""
    shutil.copytree(HERE / name, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    return _run([npm, "install", "--prefix", str(place), "--no-package-lock", "--no-audit", "--no-fund", "--silent"])


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
    sys.exit(main(Path(sys.argv[1]).absolute()))
