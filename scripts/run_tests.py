"""Runs the tests on all cores. The few that fail beside others are run once more, alone, and named if they pass then.

There are three processes for two cores, since tests wait for servers and clocks in about a third of their time. Some
thousand tests start servers, browsers and databases beside each other, and whoever waits for one of them may wait too
long on a machine that others use as well. A test that fails alone too fails the run, and so do more than a few.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from canister.system.machine import usable_cores

MOST_AGAIN = 5  # that failed; more have a reason of their own
FAILED = 1  # pytest's exit code where tests failed and all else went well
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
BESIDE_OTHERS = ("--dist", "worksteal", "--durations=25", "--durations-min=1")


def main(arguments: Sequence[str]) -> int:
    n_processes = -(-usable_cores() * 3 // 2)
    code = _pytest("-n", str(n_processes), *BESIDE_OTHERS, "--cache-clear", *arguments)
    if code != FAILED:
        return code
    failed = sorted(json.loads(LAST_FAILED.read_text(encoding="utf-8")))
    if not 0 < len(failed) <= MOST_AGAIN:
        return code
    print(f"\n{len(failed)} failed beside others and are run once more, alone:", *failed, sep="\n  ", flush=True)
    code = _pytest("-n", "0", *failed)
    if code == 0:
        print("\nUNSTEADY: failed beside others, passed alone:", *failed, sep="\n  ", flush=True)
    return code


def _pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
