"""What is proposed to follow, and how many rows of it are decoded, by simulated costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.engine.drafting.cost import MOST_ROWS, best_rows
from canister.engine.drafting.drafter import Drafter, Proposal
from canister.engine.drafting.habit import LOSS_SHARE, CallerHabits, Habit
from canister.engine.drafting.lookup import MATCH, MATCH_ELSEWHERE, CallerTexts, Lookup
from canister.engine.drafting.model import Guess
from canister.engine.request import Tokens

NONE: Tokens = np.empty(0, np.int32)


def nothing() -> Tokens:
    return NONE


def proposal(lookup: Lookup, habit: Habit, tokens: Tokens, n_more: int) -> list[Proposal]:
    return [Proposal(habit, partial(lookup.draft, tokens), n_more)]


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


def simulated(
    n_tokens: int, prompt: Tokens, following: Callable[[Tokens], int], others: Callable[[], Tokens] = nothing
) -> tuple[float, float]:
    """Time of an answer in decodes of one token, and that of its dearest draft. following: the token that comes."""
    drafter, lookup, habit = Drafter(MOST_ROWS), Lookup(), Habit()
    tokens, seconds, dearest = prompt, 0.0, 0.0
    end = len(prompt) + n_tokens
    while len(tokens) < end:
        drafts = []
        if drafter.has_place(lookup, habit, tokens, 1.0, others):
            drafts = drafter.drafts([proposal(lookup, habit, tokens, end - len(tokens))], 1.0, 1.0)
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
        drafter.settle(drafts, [n], cost)
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
        assert drafter.has_place(lookup, habit, tokens, 1.0, nothing)
        proposals.append(proposal(lookup, habit, tokens, 40))
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
    again = Proposal(Habit(), partial(np.resize, known[1:]), len(known) - 1, is_known=True)
    [draft] = drafter.drafts([[again]], 1.0, 1.0)
    assert draft.tokens.tolist() == known[1:MOST_ROWS].tolist()
    drafter.decoded(draft, MOST_ROWS, 1.0)
    assert (drafter.n_drafted, drafter.n_accepted) == (0, 0)


def elsewhere(text: str, others: list[str], n: int) -> str | None:
    texts, lookup = CallerTexts(), Lookup()
    for number, other in enumerate(others):
        texts.put("me", f"chat {number}", tokens_of(other))
    tokens = tokens_of(text)
    if not lookup.follow(tokens, Habit(), 1, partial(texts.of, "me")):
        return None
    return bytes(lookup.draft(tokens, n).tolist()).decode()


@pytest.mark.parametrize(
    ("text", "others", "follows"),
    [
        ("say the cat sat", ["now the cat sat on a mat"], " on a "),
        ("say the cat sat", ["the cat sat on a mat", "the cat sat up at once"], " up at"),  # in the chat that ran last
        ("why? say the cat sat", ["say the cat sat on a mat", "hm the cat sat up at once"], " on a "),  # the longest
        ("say the cat sat", ["now the cat sat o", "a word"], " o"),  # no further than that chat goes
        ("say the cat sat", ["so the cat sat", "on a mat"], None),  # its end
        ("a cat sat", ["two cat sat up"], " up"),
        ("the sat", ["a hat sat up"], None),  # too short
        ("a mat, the cat sat on a mat", ["a mat, the cat sat on a mat and slept"], " and s"),  # longer than its own
        ("x sat on a mat, sat on a mat", ["y sat on a mat and slept"], ", sat "),  # its own of equals
    ],
)
def test_what_followed_in_another_chat_is_proposed(text: str, others: list[str], follows: str | None) -> None:
    assert elsewhere(text, others, 6) == follows


def test_a_copy_of_another_chat_takes_less_than_half_of_the_time() -> None:
    text = np.random.default_rng(1).integers(0, 1000, 300).astype(np.int32)
    texts = CallerTexts()
    texts.put("me", "before", text)
    seconds, _ = simulated(200, text[:MATCH_ELSEWHERE], lambda tokens: int(text[len(tokens)]), partial(texts.of, "me"))
    assert seconds < 100


def test_the_end_of_another_chat_is_no_miss() -> None:
    texts, lookup, habit = CallerTexts(), Lookup(), Habit()
    texts.put("me", "before", tokens_of("the cat sat up"))
    texts.put("me", "after", tokens_of("and so on"))
    text = "the cat sat"
    for more in (" up", "!"):
        assert lookup.follow(tokens_of(text), habit, 1, partial(texts.of, "me"))
        text += more
        break
    assert not lookup.follow(tokens_of(text), habit, 1, partial(texts.of, "me"))
    assert (habit.n_misses, habit.n_hits > 0) == (0, True)


@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.integers(0, 4), st.lists(st.integers(0, 9), max_size=12)), max_size=30
    )
)
def test_texts_are_bounded_and_no_callers_are_anothers(puts: list[tuple[str, int, list[int]]]) -> None:
    texts, kept = CallerTexts(20, 40), dict[str, list[list[int]]]()
    for caller, number, words in puts:
        texts.put(caller, f"{caller}{number}", np.array([ord(caller), *words], np.int32))
        kept.setdefault(caller, []).append([ord(caller), *words])
        assert texts.n_tokens <= 40
        joined = {each: texts.of(each).tolist() for each in "ABC"}
        assert sum(map(len, joined.values())) == texts.n_tokens
        assert joined[caller][-len(words) - 2 :] == [ord(caller), *words, -1]
        for each, tokens in joined.items():
            assert len(tokens) <= 20
            assert {token for token in tokens if token > 9} <= {ord(each)}
    for caller in "ABC":
        for number in range(5):
            texts.forget(f"{caller}{number}")
    assert texts.n_tokens == 0
    assert len(texts.of("A")) == 0


def test_guesses_that_came_and_that_did_not_are_counted() -> None:
    guess, habit = Guess(3, np.array([4, 5, 6], np.int32)), Habit()
    guess.note(np.array([1, 2, 3], np.int32), habit)
    assert habit.n_hits == habit.n_misses == 0  # nothing is known yet
    guess.note(np.array([1, 2, 3, 4, 7], np.int32), habit)
    assert (habit.n_hits > 0, habit.n_misses) == (True, 1)
    guess.note(np.array([1, 2, 3, 4, 7, 8], np.int32), habit)
    assert habit.n_misses == 1


def test_a_new_chat_begins_with_what_is_known_of_its_caller() -> None:
    habits = CallerHabits(most=2)
    mine = habits.of_chat("me")
    for _ in range(100):
        mine.note(False)
    assert habits.of_chat("me").chance < 0.1
    assert habits.of_chat("you").chance > 0.5
    mine.spend(3.0)
    assert habits.of_chat("me").purse.balance == -3.0
    assert habits.of_chat("you").purse.balance == 0
    for caller in "abc":
        habits.of_chat(caller)
    assert habits.of_chat("me").chance > 0.5  # forgotten
