"""SHA-256 of uploads: right whatever happens, and no byte hashed twice while the server runs."""

from __future__ import annotations

import hashlib

import pytest

from canister.errors import NotFound
from canister.store.uploads import UploadHasher
from tests.store.home import Home


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_hash_grows_with_the_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = UploadHasher(home.memory)
    with home.memory.begin() as transaction:
        transaction.write_file("a", b"one")
        assert hasher.start(transaction, "./a", b"one") == sha256(b"one")
        transaction.commit_sync()
    monkeypatch.setattr(home.memory, "read", lambda *_: pytest.fail("the state is at hand"))
    for chunk, whole in ((b"two", b"onetwo"), (b"", b"onetwo"), (b"three", b"onetwothree")):
        with home.memory.begin() as transaction:
            transaction.append_file("a", chunk)
            assert hasher.extend(transaction, "a", chunk) == sha256(whole)
            transaction.commit_sync()
        assert hasher.digest("a") == sha256(whole)


def test_what_is_rolled_back_is_not_hashed(home: Home) -> None:
    hasher = UploadHasher(home.memory)
    with home.memory.begin() as transaction:
        transaction.write_file("a", b"one")
        hasher.start(transaction, "a", b"one")
        transaction.commit_sync()
    for _ in range(2):
        with home.memory.begin() as transaction:
            transaction.append_file("a", b"two")
            assert hasher.extend(transaction, "a", b"two") == sha256(b"onetwo")
            transaction.prepare()
    with home.memory.begin() as transaction:
        transaction.write_file("a", b"else")
        hasher.start(transaction, "a", b"else")
    assert hasher.digest("a") == sha256(b"one")


def test_a_file_that_changed_otherwise_is_read_again(home: Home) -> None:
    hasher = UploadHasher(home.memory)
    with home.memory.begin() as transaction:
        transaction.write_file("a", b"one")
        hasher.start(transaction, "a", b"one")
        transaction.commit_sync()
    with home.memory.begin() as transaction:
        transaction.write_file("a", b"two")  # of the same size
        transaction.commit_sync()
    assert hasher.digest("a") == sha256(b"two")
    assert UploadHasher(home.memory).digest("a") == sha256(b"two")  # after a restart
    with pytest.raises(NotFound):
        hasher.digest("missing")


def test_only_so_many_states_are_kept(home: Home) -> None:
    hasher = UploadHasher(home.memory, n_running=2)
    for path in ("a", "b", "c"):
        with home.memory.begin() as transaction:
            transaction.write_file(path, path.encode())
            hasher.start(transaction, path, path.encode())
            transaction.commit_sync()
    assert list(hasher._states) == ["b", "c"]
    assert [hasher.digest(path) for path in "abc"] == [sha256(path.encode()) for path in "abc"]
    assert list(hasher._states) == ["b", "c"] or list(hasher._states)[-1] == "c"
