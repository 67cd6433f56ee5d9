"""Libraries that are imported without what they would like to have."""

from __future__ import annotations

import subprocess
import sys

import pytest

from canister.lean_imports import without


def test_a_module_is_not_there_inside_and_is_there_afterwards() -> None:
    with without("antigravity"), pytest.raises(ImportError):
        import antigravity  # noqa: F401
    assert "antigravity" not in sys.modules


def test_what_was_imported_before_stays() -> None:
    with without("json"):
        import json
    assert sys.modules["json"] is json


def test_a_server_loads_nothing_that_only_commands_need() -> None:
    names = ("rich", "llguidance", "pygments", "typer", "pydantic_settings", "huggingface_hub", "attr")
    code = f"import canister.server.process, canister.server.app, sys; print(*({{*{names}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
