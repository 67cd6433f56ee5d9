"""Runs a script of `tests/clients` beside the packages from npm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLIENTS = HERE.parent.parent / ".clients"
SECONDS = 120


def run(script: str, given: object, folder: str = "ao") -> str:
    """given: what it reads as JSON. folder: of the script. Skips the test, with the reason, where the packages could
    not be had.
    """
    place = CLIENTS / Path(folder).name
    note = place.with_name(f"{place.name}.missing")
    if note.exists():
        pytest.skip(f"these clients could not be installed: {note.read_text()}")
    node = shutil.which("node")
    if node is None or not place.is_dir():
        pytest.skip("these clients are not installed: `make test` installs them, or `make clients`, or `make nightly`")
    copy = place / f"{script}.{os.getpid()}.mjs"  # node looks for packages from where a script lies
    shutil.copy(HERE / folder / f"{script}.mjs", copy)
    try:
        done = subprocess.run(
            [node, str(copy)], input=json.dumps(given), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    finally:
        copy.unlink()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
