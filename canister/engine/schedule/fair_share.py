"""Fair shares among callers: what each was given, against an even share of it.

The even share grows with everything given, divided by the callers present. A caller's lead is what it was given beyond
that, plus what is set aside for it. The caller with the smallest lead is next. A newcomer begins at the even share, and
a lead is remembered until the even share has caught up, so going away neither earns nor sheds anything.
"""

from __future__ import annotations

from collections import Counter

MAX_LEAD = 256.0  # tokens; a larger lead or lag is forgotten, since nobody else wanted what was given
_MANY = 1024


class FairShare:
    """Shares by caller, in tokens or any other additive measure.

    The even share never falls, and what is set aside and not used changes nothing. There may be fewer callers when
    something is handed back than when it was set aside, so each time a little more would be taken from the even share
    than was added, and waiting callers would seem to have had too much.
    """

    def __init__(self) -> None:
        self._n_calls: Counter[str] = Counter()
        self._given: dict[str, float] = {}
        self._set_aside: Counter[str] = Counter()
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._even = 0.0

    def join(self, caller: str) -> None:
        """The caller has one more call here."""
        if not self._n_calls[caller]:
            self._given[caller] = max(self._given.get(caller, 0.0), self._even)
        self._n_calls[caller] += 1

    def leave(self, caller: str) -> None:
        """One of the caller's calls is over."""
        self._n_calls[caller] -= 1
        if not self._n_calls[caller]:
            del self._n_calls[caller]
            self._turns.pop(caller, None)
            if self._given[caller] <= self._even:
                del self._given[caller]
            if len(self._given) > len(self._n_calls) + _MANY:
                self._given = {
                    name: given for name, given in self._given.items() if name in self._n_calls or given > self._even
                }

    def set_aside(self, caller: str, n: int) -> None:
        """Count these tokens as the caller's until they are given or not needed. Then call it with a negative
        number.
        """
        self._set_aside[caller] += n
        if not self._set_aside[caller]:
            del self._set_aside[caller]

    def give(self, caller: str, n: float) -> None:
        """Note what the caller was given, also when it has just left."""
        self._turn += 1
        if caller in self._n_calls:
            self._turns[caller] = self._turn
        given = max(self._given.get(caller, self._even), self._even - MAX_LEAD) + n
        self._even += n / (len(self._n_calls) or 1)
        self._given[caller] = min(given, self._even + MAX_LEAD)

    def lead(self, caller: str) -> float:
        """Tokens beyond the even share; negative: short of it."""
        lead = self._given.get(caller, self._even) - self._even + self._set_aside[caller]
        return max(-MAX_LEAD, min(lead, MAX_LEAD))

    def order(self, caller: str) -> tuple[float, int]:
        """A sort key, smallest first: by lead, then by how long ago the caller was given something."""
        return self.lead(caller), self._turns.get(caller, 0)
