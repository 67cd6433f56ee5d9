"""What a chat's proposals were like, and whether its purse allows another one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

LOSS_SHARE = 0.015  # of a chat's time that drafts which failed may take in all
MOST_CALLERS = 1024  # of whom it is remembered what drafts of a model were like
_DECAY = 0.97  # of what a chat's drafts were like, a token
_PRIOR, _PRIOR_WEIGHT = 0.85, 4.0  # what is expected of a chat without drafts, in tokens
_GUESSED = 0.7  # what is expected of the guesses of a model, before it has shown what they are like
_MOST_SAVED = 8.0  # decodes of one token: gains that may be lost again


@dataclass(slots=True, eq=False)
class Habit:
    """Proposals that came true and that did not, also those that were not decoded.

    balance: seconds gained, less those lost. of_caller: of all chats of a caller; what is not known of a chat yet is
    expected to be as in those, and they have one balance. prior: the chance that is expected before anything is known.
    """

    n_hits: float = 0.0
    n_misses: float = 0.0
    balance: float = 0.0
    of_caller: Habit | None = None
    prior: float = _PRIOR

    def note(self, is_hit: bool) -> None:
        self.n_hits, self.n_misses = self.n_hits * _DECAY + is_hit, self.n_misses * _DECAY + (not is_hit)
        if self.of_caller is not None:
            self.of_caller.note(is_hit)

    @property
    def chance(self) -> float:
        """That a proposed token comes, if all before it came."""
        prior = self.prior if self.of_caller is None else self.of_caller.chance
        return (self.n_hits + prior * _PRIOR_WEIGHT) / (self.n_hits + self.n_misses + _PRIOR_WEIGHT)

    @property
    def n_seen(self) -> float:
        """Proposals that this rests on, the older ones for less."""
        return self.n_hits + self.n_misses

    @property
    def purse(self) -> Habit:
        """Whose balance it is that counts."""
        return self if self.of_caller is None else self.of_caller

    def settle(self, n_tokens: int, seconds: float, seconds_of_one: float) -> None:
        """A draft was decoded: n_tokens came in so many seconds. Each alone would have taken seconds_of_one."""
        purse, gained = self.purse, n_tokens * seconds_of_one - seconds
        purse.balance = min(purse.balance + gained, _MOST_SAVED * seconds_of_one)

    def spend(self, seconds: float) -> None:
        """So long a proposal took that was not decoded."""
        self.purse.balance -= seconds

    def go_on(self, seconds: float) -> None:
        """A token was decoded without a draft. With time, a loss counts no more."""
        purse = self.purse
        if purse.balance < 0:
            purse.balance += LOSS_SHARE * seconds


class CallerHabits:
    """What drafts of a model were like in each caller's chats, for those who called last."""

    def __init__(self, most: int = MOST_CALLERS) -> None:
        self._most = most
        self._of: OrderedDict[str, Habit] = OrderedDict()

    def of_chat(self, caller: str) -> Habit:
        """The habit of a new chat of this caller."""
        habit = self._of.setdefault(caller, Habit(prior=_GUESSED))
        self._of.move_to_end(caller)
        if len(self._of) > self._most:
            self._of.popitem(last=False)
        return Habit(of_caller=habit)
