"""API keys: made, found, expired and revoked, also by another process."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from canister.errors import BadRequest, Conflict, NotFound
from canister.ic import principal as principals
from canister.state import api_keys as keys_module
from canister.state.api_keys import KeyRing, open_keys, parse_duration

SOMEBODY = principals.to_text(principals.self_authenticating(b"somebody"))


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyRing]:
    with open_keys(tmp_path / "data") as opened:
        yield opened


def test_a_key_stands_for_its_principal(keys: KeyRing) -> None:
    key = keys.create("agent", SOMEBODY)
    assert re.fullmatch(r"lc_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", key)
    found = keys.find(key)
    assert found is not None
    assert (found.name, found.principal, found.expires_ns) == ("agent", SOMEBODY, None)


def test_a_key_without_principal_gets_one_of_its_own(keys: KeyRing) -> None:
    first, second = (keys.find(keys.create(name)) for name in ("first", "second"))
    assert first is not None
    assert second is not None
    assert first.principal != second.principal
    assert principals.from_text(first.principal)[-1] == 2


@pytest.mark.parametrize(
    "damage", ["swap", "cut", "longer", "case", "other id", "space", "nonsense", "empty", "accent"]
)
def test_what_is_not_a_key_finds_nothing(keys: KeyRing, damage: str) -> None:
    key = keys.create("agent")
    last = "A" if key[-1] != "A" else "B"
    broken = {
        "swap": key[:-1] + last,
        "cut": key[:-1],
        "longer": key + "A",
        "case": key.upper(),
        "other id": "lc_00000000" + key[11:],
        "space": key + " ",
        "nonsense": "x" * 10_000,
        "empty": "",
        "accent": key[:-1] + "é",
    }[damage]
    assert keys.find(broken) is None
    assert keys.find(key) is not None


def test_the_key_is_not_kept(keys: KeyRing, tmp_path: Path) -> None:
    key = keys.create("agent")
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert key.encode() not in stored
    assert key.rpartition("_")[2].encode() not in stored
    assert hashlib.sha256(key.encode()).hexdigest().encode() in stored


def test_names_are_unique(keys: KeyRing) -> None:
    first = keys.create("agent", SOMEBODY)
    with pytest.raises(Conflict, match=r"named 'agent' already.*canister api-key revoke agent"):
        keys.create("agent")
    assert keys.find(first) is not None
    second = keys.create("agent", SOMEBODY, replace=True)
    assert keys.find(first) is None
    assert keys.find(second) is not None


@pytest.mark.parametrize("name", ["", " ", "a b", "ä", "-x", "a/b", "a\n", "x" * 65])
def test_names_that_are_refused(keys: KeyRing, name: str) -> None:
    with pytest.raises(BadRequest, match="is no name for an API key"):
        keys.create(name)


@pytest.mark.parametrize("principal", ["", "nobody", "2vxsx-faf", principals.ANONYMOUS])
def test_principals_that_are_refused(keys: KeyRing, principal: str) -> None:
    with pytest.raises(BadRequest):
        keys.create("agent", principal)
    assert keys.list() == []


def test_expiry(keys: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.create("agent", lifetime_seconds=60)
    (known,) = keys.list()
    assert known.expires_ns == known.created_ns + 60_000_000_000
    assert keys.find(key) is not None
    monkeypatch.setattr(keys_module.time, "time_ns", lambda: known.expires_ns)
    assert keys.find(key) is None
    assert keys.list()[0].is_expired()  # it is still there, and its name is still taken


def test_revoke(keys: KeyRing) -> None:
    key = keys.create("agent")
    keys.revoke("agent")
    assert keys.find(key) is None
    assert keys.list() == []
    with pytest.raises(NotFound, match="canister api-key list"):
        keys.revoke("agent")


def test_revoke_names_the_nearest(keys: KeyRing) -> None:
    keys.create("nightly-agent")
    with pytest.raises(NotFound, match="did you mean 'nightly-agent'"):
        keys.revoke("nightly-agemt")


def test_list_is_oldest_first(keys: KeyRing) -> None:
    for name in ("c", "a", "b"):
        keys.create(name)
    assert [key.name for key in keys.list()] == ["c", "a", "b"]
    assert keys.get("a") is not None
    assert keys.get("d") is None


def test_what_another_process_does_counts_at_once(keys: KeyRing, tmp_path: Path) -> None:
    def elsewhere(statement: str) -> str:
        code = (
            "import sys; from pathlib import Path; from canister.state.api_keys import open_keys\n"
            f"with open_keys(Path(sys.argv[1])) as keys: {statement}"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "data")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    key = elsewhere("print(keys.create('agent'))")
    assert keys.find(key) is not None
    elsewhere("keys.revoke('agent')")
    assert keys.find(key) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), (" 2w ", 1_209_600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "0d", "1.5h", "1y", "1d2h", "٣d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BadRequest, match="is no duration"):
        parse_duration(text)
