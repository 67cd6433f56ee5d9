"""The command line starts quickly: what is heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from canister.client.local_server import LocalServer

HEAVY = ("llama_cpp", "sqlalchemy", "fastapi", "uvicorn", "ray", "matplotlib", "lupa")
ALSO_HEAVY = ("pydantic", "pydantic_settings", "httpx", "rich", "pygments", "asyncio")


def loaded_after(statement: str, wanted: tuple[str, ...] = HEAVY) -> set[str]:
    code = f"{statement}; import sys; print(*(name for name in {wanted} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import canister.cli",
        "from typer.main import get_command; from canister.cli import app, habits; "
        "habits.translated(get_command(app), ['--network', 'local', 'canister', 'call', 'x', 'y'])",
        "import canister.client.rest, canister.client.transfer",
        "import canister.client.conversation, canister.client.local_server",
        "from canister.api.methods import METHODS",
        "import canister.cli.commands.ao",
        "import canister.api.management, canister.client.ic, canister.cli.shared.managing",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    assert loaded_after(statement) == set()


def test_the_help_of_all_commands_imports_none_of_them() -> None:
    code = "import atexit, sys; atexit.register(lambda: print('loaded', *sys.modules)); "
    code += "from canister.cli import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("\nloaded ")[2].split())
    assert "canister.cli.shared.lazy" in loaded
    assert not {*HEAVY, *ALSO_HEAVY} & loaded
    assert not [name for name in loaded if name.startswith("canister.cli.commands.")]


@pytest.mark.parametrize("more", [(), ("--data-dir", "DATA_DIR")])
def test_a_call_reads_no_settings_where_nothing_is_set(
    running_server: LocalServer, tmp_path: Path, more: tuple[str, ...]
) -> None:
    words = ["call", "llama_cpp", "health", "--network", running_server.url, *more]
    words = [str(running_server.data_dir) if word == "DATA_DIR" else word for word in words]
    code = "import atexit, sys; atexit.register(lambda: print('loaded', *sys.modules)); "
    code += f"from canister.cli import main; main({words!r})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CANISTER_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    answer, _, loaded = done.stdout.partition("\nloaded ")
    assert "status_code = 200" in answer
    assert "canister.client.ic" in loaded.split()
    assert not {"canister.config", "pydantic_settings"} & set(loaded.split())


def test_a_command_runs_with_the_garbage_collector_though_modules_are_loaded_without() -> None:
    code = "import atexit, gc, sys; sys.argv = ['canister', 'version']; "
    code += "atexit.register(lambda: print('collects', gc.isenabled(), gc.get_freeze_count() > 10_000)); "
    code += "from canister.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "collects True True"
