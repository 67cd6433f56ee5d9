"""A binding that begins at the first of some trigger texts in the answer. Until then everything may come, also the end.

The trigger is part of what is bound. It may begin and end within tokens and span several. The grammar gets it as it
came: special tokens as themselves, parts of tokens as other tokens with the same bytes, and a special token that it
knows by text as that text. A token that ends a trigger and also begins something that the grammar rejects does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from canister.engine.sampling.binding import Binding
from canister.engine.sampling.samplers import Candidates

PieceOf = Callable[[int], bytes]
"""The bytes of a token, the name of a special one."""

Spell = Callable[[bytes], list[int]]
"""Tokens, none of them special, whose bytes these are."""


Span = tuple[str, str]
"""What begins and what ends a part of the answer in which nothing triggers; "" begins with the answer."""


class _Look(NamedTuple):
    """tokens: those in which a text may have begun. place: of a trigger in their bytes, None: there is none.

    n_past: bytes of theirs that belong to no text any more. until: what ends the span that this is in.
    """

    tokens: list[tuple[int, bytes]]
    place: int | None
    n_past: int
    until: bytes


class Triggered:
    """Owns the binding."""

    def __init__(
        self,
        binding: Binding,
        triggers: Collection[str],
        piece: PieceOf,
        spell: Spell,
        quiet: Collection[Span] = (),
    ) -> None:
        self._binding = binding
        self._triggers = tuple(text.encode("utf-8", "replace") for text in triggers)
        self._quiet = tuple((begin.encode("utf-8", "replace"), end.encode("utf-8", "replace")) for begin, end in quiet)
        self._n_kept = (
            max(len(text) for text in (*self._triggers, *(text for span in self._quiet for text in span))) - 1
        )
        self._piece, self._spell = piece, spell
        self._recent: list[tuple[int, bytes]] = []  # as many tokens as a text may have begun in
        self._n_past = 0
        self._until = next((end for begin, end in self._quiet if not begin), b"")
        self._is_bound = False

    def fits(self, token: int) -> bool:
        if self._is_bound:
            return self._binding.fits(token)
        look = self._look(token)
        if look.place is None:
            return True
        entered = self._entered(look.tokens, look.place)
        if entered is not None:
            entered.close()
        return entered is not None

    def restrict(self, candidates: Candidates, refused: Collection[int]) -> None:
        if self._is_bound:
            self._binding.restrict(candidates, refused)
        else:
            candidates.drop(refused)

    def accept(self, token: int) -> None:
        if self._is_bound:
            self._binding.accept(token)
            return
        look = self._look(token)
        entered = None if look.place is None else self._entered(look.tokens, look.place)
        if entered is not None:
            self._binding.close()
            self._binding, self._is_bound = entered, True
            self._recent = []
            return
        self._recent, _, self._n_past, self._until = look
        n = sum(len(piece) for _, piece in self._recent)
        while self._recent and n - len(self._recent[0][1]) >= self._n_kept:
            dropped = len(self._recent.pop(0)[1])
            n -= dropped
            self._n_past = max(0, self._n_past - dropped)

    def replay(self, tokens: Sequence[int]) -> None:
        for at, token in enumerate(tokens):
            if self._is_bound:
                self._binding.replay(tokens[at:])
                return
            self.accept(token)

    def begun(self) -> Triggered:
        triggers = [text.decode() for text in self._triggers]
        quiet = [(begin.decode(), end.decode()) for begin, end in self._quiet]
        return Triggered(self._binding.begun(), triggers, self._piece, self._spell, quiet)

    def close(self) -> None:
        self._binding.close()

    def _look(self, token: int) -> _Look:
        """What there is with this token."""
        tokens = [*self._recent, (token, self._piece(token))]
        text = b"".join(piece for _, piece in tokens)
        at, until = self._n_past, self._until
        while True:
            if until:
                end = text.find(until, at)
                if end < 0:
                    return _Look(tokens, None, at, until)
                at, until = end + len(until), b""
            place = min((found for trigger in self._triggers if (found := text.find(trigger, at)) >= 0), default=None)
            spans = [
                (found, begin, end) for begin, end in self._quiet if begin and (found := text.find(begin, at)) >= 0
            ]
            span = min(spans, default=None)
            if span is None or (place is not None and place <= span[0]):
                return _Look(tokens, place, at, b"")
            at, until = span[0] + len(span[1]), span[2]

    def _entered(self, tokens: list[tuple[int, bytes]], n_before: int) -> Binding | None:
        """The binding behind these tokens; None if it rejects them."""
        tokens = list(tokens)
        while n_before >= len(tokens[0][1]):
            n_before -= len(tokens.pop(0)[1])
        as_they_came = [token for token, _ in tokens]
        if n_before:
            as_they_came[:1] = self._spell(tokens[0][1][n_before:])
        spelled = self._spell(b"".join(piece for _, piece in tokens)[n_before:])
        for wanted in (as_they_came, spelled):
            binding = self._binding.begun()
            if all(_goes_on(binding, token) for token in wanted):
                return binding
            binding.close()
        return None


def _goes_on(binding: Binding, token: int) -> bool:
    fits = binding.fits(token)
    if fits:
        binding.accept(token)
    return fits
