"""Even shares: what a caller's lead depends on, and what it does not."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from canister.engine.schedule.fair_share import MAX_LEAD, FairShare

CALLERS = "abcd"
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "give", "set aside", "hand back"]), st.sampled_from(CALLERS)),
    max_size=80,
)


def test_a_lead_is_what_was_given_beyond_an_even_share() -> None:
    shares = FairShare()
    for caller in "ab":
        shares.join(caller)
    shares.give("a", 10)
    assert (shares.lead("a"), shares.lead("b")) == (5, -5)
    shares.set_aside("b", 16)
    assert (shares.lead("a"), shares.lead("b")) == (5, 11)
    shares.set_aside("b", -16)
    assert (shares.lead("a"), shares.lead("b")) == (5, -5)


def test_who_comes_has_no_lead_and_who_goes_does_not_shed_it() -> None:
    shares = FairShare()
    for caller in "ab":
        shares.join(caller)
    shares.give("a", 10)
    shares.leave("a")
    shares.join("c")
    shares.join("a")
    assert (shares.lead("a"), shares.lead("b"), shares.lead("c")) == (5, -5, 0)


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_whoever_only_waits_never_seems_to_have_had_more(actions: list[tuple[str, str]]) -> None:
    """Whatever others are given, have set aside, or hand back, and however they come and go meanwhile."""
    shares, n_calls, set_aside = FairShare(), Counter[str](), Counter[str]()
    shares.join("waits")
    lead = shares.lead("waits")
    for action, caller in actions:
        if action == "join":
            shares.join(caller)
            n_calls[caller] += 1
        elif n_calls[caller]:
            if action == "give":
                shares.give(caller, 7)
            elif action == "set aside":
                shares.set_aside(caller, 16)
                set_aside[caller] += 1
            elif set_aside[caller]:
                shares.set_aside(caller, -16)
                set_aside[caller] -= 1
            if action == "leave" and n_calls[caller] > set_aside[caller]:
                shares.leave(caller)
                n_calls[caller] -= 1
        assert -MAX_LEAD <= shares.lead("waits") <= lead
        lead = shares.lead("waits")
