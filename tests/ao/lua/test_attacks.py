"""Every attack ends within its budget, in an error or a value; it takes no memory, leaves no file, harms nobody else.

Here behind fences 1 and 2 alone, each in a process of its own with a deadline; `test_cage.py` has the third.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ao.lua.attacks import ATTACKS
from tests.harness import ROOT

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

DEADLINE_SECONDS = 60.0
MAX_GROWN_KIB = 160 * 1024  # the state may have 64 MiB, and twice that while a string grows


@pytest.mark.parametrize("name", ATTACKS)
def test_it_ends_and_harms_nobody(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ao.lua.attacks", name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    pattern = re.sub(r"(^|\|)= ", r"\1^= ", ATTACKS[name][1])
    assert re.search(pattern, found["told"]), found["told"]
    assert found["lives"], found["error"]
    assert found["grown_kib"] < MAX_GROWN_KIB
    assert not list(tmp_path.iterdir())
    assert "secret" not in found["told"]
