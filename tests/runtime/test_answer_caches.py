"""Which cache an answer goes on in: the one that begins most like its prompt, as it is or copied, never one in use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.request import Tokens
from canister.runtime.answer_caches import TAIL_TOKENS, AnswerCaches, CacheChoice

ME = "me"
SYSTEM = list(range(1000, 1100))


def tokens(*parts: list[int] | int) -> Tokens:
    flat = [token for part in parts for token in (part if isinstance(part, list) else [part])]
    return np.array(flat, np.int32)


@pytest.fixture
def caches() -> AnswerCaches:
    found = AnswerCaches(3)
    found.put(ME, [])
    return found


def left(caches: AnswerCaches, name: str, held: Tokens) -> list[str]:
    assert caches.take(ME, tokens(), name).name == name
    return caches.give_back(ME, name, held)


def test_a_prompt_that_extends_a_cache_goes_on_in_it(caches: AnswerCaches) -> None:
    left(caches, "a", tokens(SYSTEM, 1, 2))
    left(caches, "b", tokens(SYSTEM, 1, 2, 3))
    assert caches.take(ME, tokens(SYSTEM, 1, 2, 3, 4), "new") == CacheChoice("b")
    caches.give_back(ME, "b", tokens(SYSTEM, 1, 2, 3, 4))
    assert caches.take(ME, tokens(SYSTEM, 1, 2, 9), "new") == CacheChoice("a")  # which loses nothing
    assert caches.take(ME, tokens(SYSTEM, 1, 2, 9), "new") == CacheChoice("b")  # a tail of two is taken back


def test_a_prompt_that_branches_off_gets_a_copy(caches: AnswerCaches) -> None:
    left(caches, "a", tokens(SYSTEM, list(range(TAIL_TOKENS + 1))))
    assert caches.take(ME, tokens(SYSTEM, 77), "new") == CacheChoice("new", "a")


def test_what_is_not_worth_it_is_not_copied(caches: AnswerCaches) -> None:
    left(caches, "short", tokens([1, 2, 3], list(range(50, 80))))
    left(caches, "long", tokens(SYSTEM, list(range(10_000))))
    assert caches.take(ME, tokens([1, 2, 3, 4]), "new") == CacheChoice("new")
    caches.give_back(ME, "new", None)
    assert caches.take(ME, tokens(SYSTEM, 77777), "new") == CacheChoice("new")  # 100 of 10 100


def test_a_cache_in_use_is_copied_at_most(caches: AnswerCaches) -> None:
    left(caches, "a", tokens(SYSTEM))
    assert caches.take(ME, tokens(SYSTEM, 1), "new") == CacheChoice("a")
    assert caches.take(ME, tokens(SYSTEM, 1), "new") == CacheChoice("new", "a")
    assert caches.take(ME, tokens(SYSTEM, 1), "newer") == CacheChoice("newer", "a")
    caches.give_back(ME, "a", tokens(SYSTEM, 1))
    assert caches.take(ME, tokens(SYSTEM, 1, 2), "newest") == CacheChoice("a")


def test_the_one_used_longest_ago_goes_when_there_are_too_many(caches: AnswerCaches) -> None:
    for n, name in enumerate("abc"):
        assert left(caches, name, tokens([n] * 50)) == []
    assert caches.take(ME, tokens([0] * 50, 7), "new") == CacheChoice("a")
    caches.give_back(ME, "a", tokens([0] * 50, 7))
    assert left(caches, "d", tokens([9] * 50)) == ["b"]


def test_a_cache_in_use_does_not_go(caches: AnswerCaches) -> None:
    left(caches, "a", tokens([1] * 50))
    assert caches.take(ME, tokens([1] * 51), "new") == CacheChoice("a")
    left(caches, "b", tokens([2] * 50))
    left(caches, "c", tokens([3] * 50))
    assert left(caches, "d", tokens([4] * 50)) == ["b"]


def test_where_one_has_to_go_anyway_it_is_gone_on_in(caches: AnswerCaches) -> None:
    for n, name in enumerate("abc"):
        left(caches, name, tokens(SYSTEM, [n] * 50))
    assert caches.take(ME, tokens(SYSTEM, 7), "new") == CacheChoice("a")
    assert caches.take(ME, tokens(SYSTEM, 7), "new") == CacheChoice("b")


def test_a_named_cache_is_taken_unless_it_is_in_use(caches: AnswerCaches) -> None:
    assert caches.take(ME, tokens(SYSTEM, 1), "new", "mine") == CacheChoice("mine")
    assert caches.take(ME, tokens(SYSTEM, 1), "new", "mine") == CacheChoice("new")
    caches.give_back(ME, "mine", tokens(SYSTEM, 1, 2))
    caches.give_back(ME, "new", None)
    assert caches.take(ME, tokens(SYSTEM, 1), "new", "other") == CacheChoice("other", "mine")
    assert caches.take(ME, tokens([5]), "new", "mine") == CacheChoice("mine")


def test_callers_do_not_see_each_other(caches: AnswerCaches) -> None:
    left(caches, "a", tokens(SYSTEM))
    caches.put("you", [])
    assert caches.take("you", tokens(SYSTEM, 1), "new") == CacheChoice("new")


@given(st.lists(st.tuples(st.lists(st.integers(0, 1), max_size=40), st.booleans()), max_size=30))
def test_no_two_use_one_and_there_are_never_too_many(steps: list[tuple[list[int], bool]]) -> None:
    caches = AnswerCaches(3)
    caches.put(ME, [])
    kept: set[str] = set()
    busy: dict[str, list[int]] = {}
    for n, (prompt, gives_back) in enumerate(steps):
        choice = caches.take(ME, tokens(prompt), f"n{n}", "named" if n % 5 == 0 else None)
        assert choice.name not in busy
        assert choice.source is None or choice.source in kept
        assert choice.source != choice.name
        busy[choice.name] = prompt
        if gives_back:
            name, held = busy.popitem()
            kept.add(name)
            kept -= set(caches.give_back(ME, name, tokens(held)))
            assert len(kept - busy.keys()) <= 3
