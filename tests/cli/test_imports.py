"""The command line starts quickly: what is heavy is imported by the command that needs it."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

HEAVY = ("llama_cpp", "sqlalchemy", "fastapi", "uvicorn", "ray", "matplotlib")
HELP_SECONDS = 0.5


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import canister.cli",
        "import canister.client, canister.transfer",
        "import canister.cli.conversation, canister.cli.local",
        "from canister.interface import METHODS",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    assert loaded_after(statement) == set()


def test_help_is_quick() -> None:
    def run() -> float:
        # Time of the processor, so that what the neighbours do does not count.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "canister", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(run() < HELP_SECONDS for _ in range(3))
