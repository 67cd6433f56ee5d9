"""What an answer is bound to, for the sampler: may this token follow, and which tokens may?

A token that a binding rejects is no part of it, and the binding begins anew behind it. That happens only where a call
continues what another call with another grammar has begun, or behind the end.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from canister.engine.sampling.llguidance import GrammarFault, Matcher
from canister.engine.sampling.samplers import Candidates, Sampler
from canister.errors import BadRequest

MOST_TOKEN_SECONDS = 0.1  # of the thread's CPU time, to ask about a token or to take it; usually a fifth of a ms
MOST_VOCABULARY_SECONDS = 1.0  # to ask about all tokens; 65 ms were seen with 131 072 of them
TOO_MANY_WAYS = (
    "there are too many ways to read a text by it, and to ask about the next token takes too long; "
    "make it simpler, such as x{0,9} in place of many x? in a row"
)


class Binding(Protocol):
    """For one answer and one thread. Its owner closes it."""

    def fits(self, token: int) -> bool:
        """May it follow?"""

    def restrict(self, candidates: Candidates, refused: Collection[int]) -> None:
        """Keep only tokens that fit, or drop only the refused ones, where the others cannot be told apart."""

    def accept(self, token: int) -> None:
        """The token follows."""

    def replay(self, tokens: Sequence[int]) -> None:
        """They follow one after the other; thousands of them, where an answer goes on."""

    def begun(self) -> Binding:
        """A new binding at its beginning."""

    def close(self) -> None: ...


class Gbnf:
    """A grammar of llama.cpp.

    llama.cpp keeps each way in which the text may have been read, and there may be very many of them. What that costs
    the thread that decodes, and so everybody, is bounded: a grammar that takes longer is followed no further.
    """

    def __init__(self, start: Sampler) -> None:
        """start: the grammar at its beginning, which nobody may advance."""
        self._start, self._now, self._one = start, start.clone(), Candidates(1)

    def fits(self, token: int) -> bool:
        self._one.only(token)
        with _bounded():
            self._now.apply(self._one)
        return self._one.best()[1] != float("-inf")

    def restrict(self, candidates: Candidates, refused: Collection[int]) -> None:
        if not self._now.apply_within(candidates, MOST_VOCABULARY_SECONDS):
            raise BadRequest(f"The grammar cannot be followed any further: {TOO_MANY_WAYS}")

    def accept(self, token: int) -> None:
        if self.fits(token):
            with _bounded():
                self._now.accept(token)  # any other would end the process
        else:
            self._now.close()
            self._now = self._start.clone()

    def replay(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.accept(token)

    def begun(self) -> Gbnf:
        return Gbnf(self._start)

    def close(self) -> None:
        self._now.close()


@contextmanager
def _bounded() -> Iterator[None]:
    """What is done here for one token may not take long."""
    begun = time.thread_time()
    yield
    if time.thread_time() - begun > MOST_TOKEN_SECONDS:
        raise BadRequest(f"The grammar cannot be followed any further: {TOO_MANY_WAYS}")


class Guided:
    """A Lark grammar or a JSON schema."""

    def __init__(self, eog: frozenset[int], start: Matcher) -> None:
        """eog: tokens that may end an answer. start: the grammar at its beginning, which nobody may advance."""
        self._eog, self._start, self._now = eog, start, start.clone()
        self._is_ended = False

    def fits(self, token: int) -> bool:
        try:
            if self._now.is_over:
                self._now.check()
                return not self._is_ended and token in self._eog
            return self._now.takes(token)
        except GrammarFault as fault:
            raise _lost(fault) from fault

    def restrict(self, candidates: Candidates, refused: Collection[int]) -> None:
        try:
            candidates.keep(self._now.mask())
        except GrammarFault as fault:
            raise _lost(fault) from fault

    def accept(self, token: int) -> None:
        if not self.fits(token):
            self._now, self._is_ended = self._start.clone(), False
        elif self._now.is_over:
            self._is_ended = True
        else:
            self._now.take([token])
            self._is_ended = token in self._eog

    def replay(self, tokens: Sequence[int]) -> None:
        at = 0
        while at < len(tokens):
            try:
                n = 0 if self._now.is_over else self._now.take(tokens[at:])
            except GrammarFault as fault:
                raise _lost(fault) from fault
            if n:
                self._is_ended = tokens[at + n - 1] in self._eog
            else:
                self.accept(tokens[at])
                n = 1
            at += n

    def begun(self) -> Guided:
        return Guided(self._eog, self._start)

    def close(self) -> None:
        self._now = self._start


def _lost(fault: GrammarFault) -> BadRequest:
    return BadRequest(f"The grammar cannot be followed any further: {first_line(fault)}; make it simpler")


def first_line(fault: GrammarFault) -> str:
    """What a person is told of a fault."""
    lines = [line.strip() for line in str(fault).splitlines()]
    return next((line for line in lines if line and set(line) != {"^"}), "it is none")[:200]
