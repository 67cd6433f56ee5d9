"""Which prompt caches whole answers have left for each caller, and which are in use. Memory only, on the event loop.

It only chooses the cache to begin with; the call that uses a cache checks its contents. A caller's caches from before
the start are listed when its first answer is requested.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from canister.engine.request import common_prefix

if TYPE_CHECKING:
    from canister.engine.request import Tokens

FOLDER = "answers"  # among the prompt caches of a caller
MAX_CALLERS = 1024  # callers whose caches are remembered

WORTH_TOKENS = 32  # to copy a cache for, rather than to begin anew
WORTH_SHARE = 1 / 16  # of the cache that is copied
TAIL_TOKENS = 8  # of a cache that may be taken back: what is cut off an answer's end, such as a stop string


class CacheChoice(NamedTuple):
    """The cache in which an answer continues. source: a cache to copy there first; None: as it is, or a new one."""

    name: str
    source: str | None = None


@dataclass(slots=True)
class _Caller:
    """tokens: of the caches by name, the one used longest ago first. busy: those in use."""

    tokens: OrderedDict[str, Tokens] = field(default_factory=OrderedDict)
    busy: set[str] = field(default_factory=set)


class AnswerCaches:
    """Caches by caller. n_most: how many each caller may keep."""

    def __init__(self, n_most: int) -> None:
        self._n_most = n_most
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self.tidying: set[asyncio.Task[None]] = set()

    def is_listed(self, caller: str) -> bool:
        return caller in self._callers

    def put(self, caller: str, caches: Iterable[tuple[str, Tokens]]) -> None:
        """Set the caches of a caller, the one used longest ago first."""
        if caller in self._callers:
            return
        self._callers[caller] = _Caller(OrderedDict(caches))
        idle = [name for name, known in self._callers.items() if not known.busy and name != caller]
        for name in idle[: max(0, len(self._callers) - MAX_CALLERS)]:
            del self._callers[name]

    def clear(self) -> None:
        """Forget caches that are not in use, so that they are listed again."""
        for caller in [caller for caller, known in self._callers.items() if not known.busy]:
            del self._callers[caller]

    def take(self, caller: str, prompt: Tokens, new_name: str, named: str | None = None) -> CacheChoice:
        """The cache for an answer to this prompt, in use from now on. new_name: for one that is not there yet.

        named: the one that the caller wants; another if it is in use. Of the others it is the one with the longest
        common prefix: as it is where the prompt extends it, else a copy. Where there are as many as may be, the one
        that would have to go is gone on in if it begins as well.
        """
        self._callers.move_to_end(caller)
        known = self._callers[caller]
        shared = {name: common_prefix(prompt, tokens) for name, tokens in known.tokens.items()}
        best = max(reversed(shared), key=shared.__getitem__, default=None)  # of equals the one used last
        n_best = shared[best] if best is not None else 0
        name = self._in_place(known, shared, n_best, named)
        if name is None:
            name = named if named is not None and named not in known.busy else new_name
        n_own = shared.get(name, 0)
        known.busy.add(name)
        is_better = best is not None and best != name and n_best >= n_own + WORTH_TOKENS
        if best is not None and is_better and n_best >= WORTH_SHARE * len(known.tokens[best]):
            return CacheChoice(name, best)
        return CacheChoice(name)

    def _in_place(self, known: _Caller, shared: dict[str, int], n_best: int, named: str | None) -> str | None:
        if named is not None and named not in known.busy:
            return named
        free = [name for name in shared if name not in known.busy]
        n_wanted = n_best - TAIL_TOKENS
        extended = [
            name
            for name in free
            if shared[name] >= max(n_wanted, 1) and shared[name] + TAIL_TOKENS >= len(known.tokens[name])
        ]
        if extended:
            return max(extended, key=lambda name: (shared[name], -len(known.tokens[name])))
        is_full = len(known.tokens) >= self._n_most
        if free and is_full and shared[free[0]] >= max(n_wanted, WORTH_TOKENS):
            return free[0]
        return None

    @property
    def n_busy(self) -> int:
        """How many are in use."""
        return sum(len(known.busy) for known in self._callers.values())

    def grown(self, caller: str, name: str, tokens: Tokens) -> None:
        """A cache in use holds these tokens by now: others may copy it."""
        self._callers[caller].tokens[name] = tokens

    def give_back(self, caller: str, name: str, tokens: Tokens | None) -> list[str]:
        """The cache is free again and holds these tokens; None: it does not exist. Returns the caches to be removed
        now.
        """
        known = self._callers[caller]
        known.busy.discard(name)
        known.tokens.pop(name, None)
        if tokens is not None:
            known.tokens[name] = tokens
        free = [name for name in known.tokens if name not in known.busy]
        gone = free[: max(0, len(known.tokens) - self._n_most)]
        for name in gone:
            del known.tokens[name]
        return gone
