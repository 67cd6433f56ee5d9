"""What is proposed to follow, and how many rows of it are decoded, by simulated costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.engine.drafting import LOSS_SHARE, MATCH, MOST_ROWS, Drafter, Habit, Lookup, Proposal, best_rows
from canister.engine.request import Tokens

NONE: Tokens = np.empty(0, np.int32)


def tokens_of(text: str) -> Tokens:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def proposed(text: str, n: int) -> str | None:
    lookup = Lookup()
    tokens = tokens_of(text)
    return bytes(lookup.draft(tokens, n).tolist()).decode() if lookup.follow(tokens, Habit(), 1) else None


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ("the cat sat, the cat", " sat, "),
        ("the cat sat. the cat ran. the cat", " ran. "),  # the last of equals
        ("a dog saw the cat sat. the cat ran. dog saw the cat", " sat. "),  # the longest
        ("abcabcabcabc", "abcabc"),  # what followed goes on again
        ("nothing is here twice", None),
        ("abc abc", None),  # too short
        ("", None),
    ],
)
def test_what_followed_is_proposed(text: str, follows: str | None) -> None:
    assert proposed(text, 6) == follows


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_place_has_the_tokens_of_the_end_before_it(words: list[int]) -> None:
    tokens, lookup = np.array(words, np.int32), Lookup()
    found = lookup.follow(tokens, Habit(), 1)
    places = [n for n in range(MATCH, len(words)) if words[n - MATCH : n] == words[len(words) - MATCH :]]
    assert found == bool(places)
    if found:
        assert list(lookup.draft(tokens, 1)) in [[words[n]] for n in places]


def usual(n_rows: int) -> float:
    return 1.0 if n_rows == 1 else 1.2 + 0.35 * n_rows


def simulated(n_tokens: int, prompt: Tokens, following: Callable[[Tokens], int]) -> tuple[float, float]:
    """Time of an answer in decodes of one token, and that of its dearest draft. following: the token that comes."""
    drafter, lookup, habit = Drafter(MOST_ROWS), Lookup(), Habit()
    tokens, seconds, dearest = prompt, 0.0, 0.0
    end = len(prompt) + n_tokens
    while len(tokens) < end:
        drafts = []
        if drafter.has_place(lookup, habit, tokens, 1.0):
            drafts = drafter.drafts([Proposal(lookup, habit, tokens, end - len(tokens), NONE)], 1.0, 1.0)
        if not drafts:
            tokens = np.append(tokens, np.int32(following(tokens)))
            seconds += 1
            habit.go_on(1.0)
            continue
        n_before = len(tokens)
        for token in [*drafts[0].tokens.tolist(), -1]:
            tokens = np.append(tokens, np.int32(following(tokens)))
            if tokens[-1] != token:
                break
        cost, n = usual(drafts[0].n_rows), len(tokens) - n_before
        drafter.decoded(drafts[0], n, cost)
        drafter.settle([habit], [n], cost)
        seconds, dearest = seconds + cost, max(dearest, cost - n)
    return seconds, dearest


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(0, 100), st.integers(100, 400))
def test_drafts_that_fail_cost_next_to_nothing(n_words: int, seed: int, n_tokens: int) -> None:
    """Few words without an order: places are found all the time, and what followed hardly ever follows."""
    rng = np.random.default_rng(seed)
    seconds, dearest = simulated(n_tokens, NONE, lambda _: int(rng.integers(n_words)))
    assert seconds <= n_tokens * (1 + LOSS_SHARE) + 2 * dearest


def test_a_copy_takes_less_than_half_of_the_time() -> None:
    text = np.random.default_rng(1).integers(0, 1000, 300).astype(np.int32)
    prompt = np.concatenate([text, text[:MATCH]])
    seconds, _ = simulated(200, prompt, lambda tokens: int(text[len(tokens) - len(text)]))
    assert seconds < 100


def test_no_call_waits_for_the_draft_of_another() -> None:
    """Two chats share a decode at little more than the price of one; drafts one after the other would be slower."""
    drafter, tokens = Drafter(MOST_ROWS), tokens_of("the cat sat, the cat")
    proposals = []
    for _ in range(2):
        lookup, habit = Lookup(), Habit()
        assert drafter.has_place(lookup, habit, tokens, 1.0)
        proposals.append(Proposal(lookup, habit, tokens, 40, NONE))
    assert len(drafter.drafts(proposals, 2.4, 1.0)) == 2
    assert drafter.drafts(proposals, 1.1, 1.0) == []


@given(st.floats(0, 1), st.integers(1, 40), st.integers(0, MOST_ROWS))
def test_the_number_of_rows_is_worth_it(chance: float, n_useful: int, most: int) -> None:
    n = best_rows(chance, n_useful, most, usual, 1.0)
    assert 1 <= n <= max(1, most)
    assert best_rows(1.0, 16, 16, usual, 1.0) == 16
    assert best_rows(0.5, 16, 16, usual, 1.0) == 1


def test_tokens_that_are_decoded_anew_are_drafts_without_a_place() -> None:
    drafter = Drafter(MOST_ROWS)
    known = np.arange(100, dtype=np.int32)
    [draft] = drafter.drafts([Proposal(Lookup(), Habit(), known, 0, known[1:])], 1.0, 1.0)
    assert draft.tokens.tolist() == known[1:MOST_ROWS].tolist()
    drafter.decoded(draft, MOST_ROWS, 1.0)
    assert (drafter.n_drafted, drafter.n_accepted) == (0, 0)
