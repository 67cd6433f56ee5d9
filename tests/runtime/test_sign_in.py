"""Codes that sign a browser in."""

from __future__ import annotations

from canister.runtime.sign_in import LIFETIME_SECONDS, MAX_CODES, SignInCodes


def test_a_code_counts_once() -> None:
    codes = SignInCodes()
    code = codes.make("somebody")
    assert codes.take(code) == "somebody"
    assert codes.take(code) is None
    assert codes.take("") is None


def test_a_code_ends() -> None:
    now = 0.0
    codes = SignInCodes(lambda: now)
    code, late = codes.make("somebody"), codes.make("somebody")
    now = LIFETIME_SECONDS - 1
    assert codes.take(code) == "somebody"
    now = LIFETIME_SECONDS
    assert codes.take(late) is None


def test_the_oldest_codes_are_forgotten() -> None:
    codes = SignInCodes()
    made = [codes.make(str(n)) for n in range(MAX_CODES + 2)]
    assert len(set(made)) == len(made)
    assert [codes.take(code) for code in made[:3]] == [None, None, "2"]
    assert codes.take(made[-1]) == str(MAX_CODES + 1)
