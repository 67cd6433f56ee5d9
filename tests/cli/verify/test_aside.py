"""A model file that crashes llama.cpp: the verifier lives, tries once more, and says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from canister.cli.verify.aside import Found, judge_aside
from canister.cli.verify.verdict import Verdict

FILE = Path("broken.gguf")


def crashes(file: Path, groups: Sequence[Sequence[Verdict]], one_by_one: bool, extra_buffers: bool) -> Found:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def crashes_with_extra_buffers(
    file: Path, groups: Sequence[Sequence[Verdict]], one_by_one: bool, extra_buffers: bool
) -> Found:
    if extra_buffers:
        os.kill(os.getpid(), signal.SIGILL)
    return [[("all equal", ["a fault"])] for _ in groups]


def fails(file: Path, groups: Sequence[Sequence[Verdict]], one_by_one: bool, extra_buffers: bool) -> Found:
    raise ValueError(f"{file.name} is no model")


def test_that_a_crash_is_a_sentence() -> None:
    verdict = Verdict("1.receipt.json")
    told = judge_aside(FILE, [[verdict]], one_by_one=False, work=crashes)
    assert told == "llama.cpp crashed (SIGSEGV) when it decoded with broken.gguf: nothing is said about tokens"
    assert verdict.tokens == "not decoded again: llama.cpp crashed (SIGSEGV) with this model file, twice"
    assert verdict.is_ok


def test_that_it_is_tried_without_what_may_have_crashed() -> None:
    verdict = Verdict("1.receipt.json")
    told = judge_aside(FILE, [[verdict]], one_by_one=False, work=crashes_with_extra_buffers)
    assert told is not None
    assert told.endswith("and did not without extra buffers")
    assert (verdict.tokens, verdict.faults) == ("all equal", ["a fault"])


def test_that_an_error_is_raised_here() -> None:
    with pytest.raises(ValueError, match=r"broken\.gguf is no model"):
        judge_aside(FILE, [[Verdict("1")]], one_by_one=False, work=fails)
