"""Decides whether what is proposed to follow in chats is decoded, and how much of it.

A draft is decoded with the token before it, in one pass over the weights, and counts as far as the call draws the very
same tokens. So a draft changes nothing but time. Pure Python: it sees tokens and seconds, no model and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from canister.engine.drafting import cost
from canister.engine.drafting.cost import DraftCost, best_rows, n_expected
from canister.engine.drafting.habit import Habit
from canister.engine.drafting.lookup import Lookup
from canister.engine.request import Tokens

SpecType = Literal["none", "ngram-simple", "draft-simple", "ngram-simple,draft-simple"]

_SPEC_TYPES: dict[str, SpecType] = {name: name for name in get_args(SpecType)}

MOST_TOGETHER = 4  # chats whose drafts are decoded in one step
_SEARCH_SECONDS = 3e-5  # that a place is looked for, about
_SEARCH_SHARE = 0.005  # of a chat's time


def spec_type(text: str) -> SpecType:
    """The kind of this name, which is one of them."""
    return _SPEC_TYPES[text]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What may follow the next token of a call.

    habit: what such proposals were like. tokens: gives the first n of them, or fewer. n_more: that the call may decode
    beyond the next one. seconds: that each takes to propose. is_known: they were drawn before, and are decoded anew.
    """

    habit: Habit
    tokens: Callable[[int], Tokens]
    n_more: int
    seconds: float = 0.0
    is_known: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """tokens: that may follow the one that a call decodes next, or do so."""

    tokens: Tokens
    habit: Habit
    is_known: bool = False

    @property
    def n_rows(self) -> int:
        return 1 + len(self.tokens)


@dataclass(frozen=True, slots=True)
class _Plan:
    """To decode so many rows with a proposal. n_expected: tokens that it gives, the next one included."""

    proposal: Proposal
    n_rows: int
    n_expected: float
    seconds: float

    @property
    def gain(self) -> float:
        return self.n_expected / max(self.seconds, 1e-9)


class Drafter:
    """Decides about the drafts of a model's calls, by what decodes have cost. most: rows of one; 0: there are none."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.cost = DraftCost()
        self.n_drafted = self.n_accepted = 0
        self._seconds = 0.0  # of the step without drafts

    def has_place(
        self,
        lookup: Lookup,
        habit: Habit,
        tokens: Tokens,
        seconds_of_one: float,
        others: Callable[[], Tokens],
    ) -> bool:
        """Did the end of these tokens stand before? Asked for each token, so it takes next to no time."""
        most_rest = 1 + int(_SEARCH_SECONDS / (_SEARCH_SHARE * seconds_of_one)) if seconds_of_one else 1
        return lookup.follow(tokens, habit, most_rest, others) and habit.balance >= 0

    def drafts(self, proposals: Sequence[Sequence[Proposal]], seconds: float, seconds_of_one: float) -> list[Draft]:
        """A draft for each call of a step, of what is proposed for it, or none at all. seconds: of the step without
        drafts, and of one token alone; 0: not known yet.

        With drafts, calls are decoded one after the other, and none may wait longer for its tokens than without.
        """
        plans: list[_Plan] = []
        for each in proposals:
            found = [plan for proposal in each if (plan := self._plan(proposal, seconds_of_one)) is not None]
            if not found:
                return []
            plans.append(max(found, key=lambda plan: plan.gain))
        total = sum(plan.seconds for plan in plans)
        if not plans or any(plan.n_expected * seconds < cost.WORTH * total for plan in plans):
            return []
        self._seconds = seconds
        drafts = []
        for plan in plans:
            tokens = plan.proposal.tokens(plan.n_rows - 1)
            drafts.append(Draft(tokens, plan.proposal.habit, plan.proposal.is_known))
        return drafts if all(len(draft.tokens) for draft in drafts) else []

    def _plan(self, proposal: Proposal, seconds_of_one: float) -> _Plan | None:
        """The best number of rows for a proposal; None: none is worth it."""
        chance = 1.0 if proposal.is_known else proposal.habit.chance
        if not seconds_of_one or not proposal.n_more:
            return None
        n_useful = 1 + proposal.n_more

        def seconds(n_rows: int) -> float:
            return self.cost.seconds(n_rows, seconds_of_one) + (n_rows - 1) * proposal.seconds

        n = best_rows(chance, n_useful, self.most, seconds, seconds_of_one)
        return _Plan(proposal, n, n_expected(chance, min(n, n_useful)), seconds(n)) if n > 1 else None

    def decoded(self, draft: Draft, n_tokens: int, seconds: float) -> None:
        """A draft and the token before it were decoded. n_tokens: that counted."""
        self.cost.measured(draft.n_rows, seconds)
        if not draft.is_known:
            self.n_drafted += len(draft.tokens)
            self.n_accepted += max(0, n_tokens - 1)

    def settle(self, drafts: Sequence[Draft], n_tokens: Sequence[int], seconds: float) -> None:
        """A step with drafts took so long, proposing included, and gave so many tokens to each chat."""
        for draft, n in zip(drafts, n_tokens, strict=True):
            draft.habit.settle(n, seconds, self._seconds)
