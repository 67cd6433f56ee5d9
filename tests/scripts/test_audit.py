"""The audit of the dependencies finds what it is for."""

from __future__ import annotations

from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from scripts import audit


def test_this_project_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "advisories", list)  # no test asks the network
    assert audit.main() == 0


@pytest.mark.parametrize(
    ("requirement", "is_fine"),
    [
        ("rich>=13,<17", True),
        ("rich==13.0", True),
        ("rich>=13", False),
        ("rich", False),
        ("llama-cpp-python==0.3.36", True),
        ("llama_cpp_python>=0.3.36,<0.4", False),
        ("llama-cpp-python==0.3.*", False),
    ],
)
def test_bounds(requirement: str, is_fine: bool) -> None:
    assert (list(audit.unbounded([requirement])) == []) == is_fine


def test_imports(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import os, numpy.linalg\nfrom yaml import load\nfrom . import b\nfrom canister import c\n"
    )
    imported = audit.imports_of(tmp_path)
    assert imported == {"numpy", "yaml"}
    (problem,) = audit.undeclared(imported, ["NumPy>=1"], {"numpy": ["numpy"], "yaml": ["PyYAML"]})
    assert "yaml" in problem
    assert "pyyaml" in problem


@pytest.mark.parametrize(
    ("fields", "is_fine"),
    [
        ({"License-Expression": "MIT"}, True),
        ({"License": "BSD 3-Clause License\n\nCopyright …"}, True),
        ({"Classifier": "License :: OSI Approved :: Apache Software License"}, True),
        ({"License-Expression": "AGPL-3.0-only"}, False),
        ({"License": "Proprietary"}, False),
        ({}, False),
    ],
)
def test_licences(fields: dict[str, str], is_fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    about = Message()
    for name, value in fields.items():
        about[name] = value
    monkeypatch.setattr(audit.metadata, "metadata", lambda name: about)
    assert (list(audit.licences(["some>=1,<2"])) == []) == is_fine


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ("", "cannot be reached"),
        ('{"dependencies": [{"name": "a", "skip_reason": "x"}, {"name": "b", "skip_reason": "x"}]}', "knew 0 of 2"),
    ],
)
def test_without_the_service_it_says_so_and_passes(
    report: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: Any, **__: Any) -> Any:
        return type("Done", (), {"stdout": report})

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.advisories() == []
    assert said in capsys.readouterr().out


def test_a_vulnerability_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    vulnerable = '{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}'
    report = f'{{"dependencies": [{vulnerable}, {{"name": "b", "version": "1", "vulns": []}}]}}'
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": report}))
    assert audit.advisories() == ["a 1: CVE-1, fixed in 2"]
