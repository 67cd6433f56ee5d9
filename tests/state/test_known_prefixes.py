"""What is known of the beginnings of prompt caches: never more than allowed, and the longest of it is found."""

from __future__ import annotations

from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.engine.kv.prefix_tree import Symbols
from canister.engine.request import common_prefix
from canister.state.known_prefixes import MAX_UNREAD, KnownPrefixes
from canister.store.cache_paths import SIDECAR, sessions_folder, sessions_of

FOLDERS = [sessions_of(caller) for caller in ("me", "you")]
PATHS = [f"{folder}/{name}" for folder in FOLDERS for name in ("a", "b", "deeper/c")]
EACH = 1024 + 4 * 6  # bytes of a cache of six symbols

symbols = st.lists(st.integers(0, 2), min_size=6, max_size=6).map(lambda values: np.array(values, np.int32))


def nothing() -> list[str]:
    return []


def test_only_prompt_caches_are_known() -> None:
    assert sessions_folder(".canister_cache/me/sessions/a/b") == FOLDERS[0]
    known = KnownPrefixes()
    for path in ("models/model.gguf", f"{FOLDERS[0]}/a{SIDECAR}", ".canister_cache/me/logs/a", FOLDERS[0]):
        assert sessions_folder(path) is None
        known.add(path, np.zeros(6, np.int32))
        known.changed(path, is_there=True)
        assert path not in known
    assert known.take_unread(FOLDERS[0], nothing) == []


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["add", "later"]), st.sampled_from(PATHS), symbols),
            st.tuples(st.sampled_from(["discard", "changed", "gone"]), st.sampled_from(PATHS), symbols),
        ),
        max_size=40,
    ),
    symbols,
    st.integers(1, 6),
)
def test_the_longest_of_those_that_were_added_last(
    play: list[tuple[str, str, np.ndarray]], wanted: np.ndarray, n_most: int
) -> None:
    known = KnownPrefixes(max_bytes=n_most * EACH)
    expected: dict[str, np.ndarray] = {}  # least recently added first
    for act, path, sequence in play:
        expected.pop(path, None)
        if act in ("add", "later"):
            if act == "add":
                known.add(path, sequence)
            else:
                known.add_later(path, partial(np.copy, sequence))
            expected[path] = sequence
            while len(expected) > n_most:
                del expected[next(iter(expected))]
        elif act == "discard":
            known.discard(path)
        else:
            known.changed(path, is_there=act == "changed")
        assert known.n_bytes == EACH * len(expected)
        assert [path in known for path in PATHS] == [path in expected for path in PATHS]
        for folder in FOLDERS:
            common = {path: common_prefix(wanted, each) for path, each in expected.items() if path.startswith(folder)}
            n, found = known.longest(folder, wanted)
            assert n == max(common.values(), default=0)
            assert found is None if n == 0 else common[found or ""] == n


def test_those_of_before_the_start_are_listed_once_and_changed_ones_are_to_be_read() -> None:
    known = KnownPrefixes()
    a, b, c, *_ = PATHS
    n_listed = 0

    def list_newest() -> list[str]:
        nonlocal n_listed
        n_listed += 1
        return [a, b]

    known.add(a, np.zeros(6, np.int32))  # written since
    assert known.has_unread(FOLDERS[0])
    assert known.take_unread(FOLDERS[0], list_newest) == [b]
    assert (known.take_unread(FOLDERS[0], list_newest), n_listed) == ([], 1)
    assert not known.has_unread(FOLDERS[0])
    known.changed(a, is_there=True)
    known.changed(c, is_there=True)
    known.changed(b, is_there=False)
    assert known.has_unread(FOLDERS[0])
    assert known.longest(FOLDERS[0], np.zeros(6, np.int32)) == (0, None)
    known.add(c, np.zeros(6, np.int32))
    assert known.take_unread(FOLDERS[0], list_newest) == [a]
    for n in range(3 * MAX_UNREAD):
        known.changed(f"{FOLDERS[0]}/{n}", is_there=True)
    unread = known.take_unread(FOLDERS[0], list_newest)
    assert unread == [f"{FOLDERS[0]}/{n}" for n in range(2 * MAX_UNREAD, 3 * MAX_UNREAD)]


def test_a_folder_of_which_all_was_forgotten_is_listed_again() -> None:
    known = KnownPrefixes(max_bytes=EACH)
    mine, yours = PATHS[0], PATHS[-1]
    assert known.take_unread(FOLDERS[0], lambda: [mine]) == [mine]
    known.add(mine, np.zeros(6, np.int32))
    assert not known.has_unread(FOLDERS[0])
    known.add(yours, np.ones(6, np.int32))
    assert known.take_unread(FOLDERS[0], lambda: [mine]) == [mine]
    known.clear()
    assert known.has_unread(FOLDERS[1])
    assert known.n_bytes == 0


def test_what_is_added_later_is_made_when_it_is_asked_for() -> None:
    known, made = KnownPrefixes(), list[str]()

    def later(path: str, *numbers: int) -> None:
        def symbols() -> Symbols:
            made.append(path)
            return np.array(numbers, np.int32)

        known.add_later(path, symbols)

    first, second = PATHS[:2]
    later(first, 1, 2, 3)
    later(first, 1, 2, 3, 4)
    later(second, 1, 2)
    later("models/model.gguf", 1)
    assert first in known
    assert not made
    assert known.longest(FOLDERS[0], np.array([1, 2, 3, 4, 5], np.int32)) == (4, first)
    assert made == [first, second]
    later(second, 1, 2, 9)
    known.discard(second)
    assert known.longest(FOLDERS[0], np.array([1, 2, 9], np.int32)) == (2, first)
    assert "models/model.gguf" not in known
