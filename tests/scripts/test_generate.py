"""The generated files are current, and the check sees when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from canister.api.methods import METHODS
from scripts import generate


def test_generated_files_are_current() -> None:
    assert generate.stale() == [], "run: python -m scripts.generate"


def test_what_is_missing_or_changed_is_stale(tmp_path: Path) -> None:
    assert set(generate.stale(tmp_path)) == set(generate.generated())
    for name, content in generate.generated().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert generate.stale(tmp_path) == []
    (tmp_path / "canister.did").write_text("", encoding="utf-8")
    assert generate.stale(tmp_path) == ["canister.did"]


def test_check_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "stale", lambda: ["canister.did"])
    assert generate.main(["--check"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert "python -m scripts.generate" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["canister.did"]


def test_every_method_has_its_row() -> None:
    text = generate.render_methods()
    assert all(text.count(f"\n| `{method.name}` | {method.mode} |") == 1 for method in METHODS)


def test_typescript_knows_each_method_by_its_json() -> None:
    text = generate.render_types()
    methods = text[text.index("export interface Methods") :]
    assert all(f"\n  {method.name}: {{ arg: " in methods for method in METHODS)
    assert "revokeAdminRole: { arg: string; value: string };" in methods
    assert "get_call_log: { arg: CallLogInput; value: CallLogEntry[] };" in methods
    assert "set_max_tokens: { arg: MaxTokensRecordGiven; value: StatusCodeRecord };" in methods
    assert "  before_id?: NatGiven | null;\n" in text  # an argument may leave it out
    assert "  limit: Nat | null;\n" in text  # an answer never does
    assert '  role: "AdminQuery" | "AdminUpdate";\n' in text
    assert "  chunk: string;\n" in text  # base64
    assert "  from: string;\n" in text  # not from_, as in Python
