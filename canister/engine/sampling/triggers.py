"""A binding that begins with the first of some texts in the answer; until then everything may come, the end as well.

The text is part of what is bound. It may begin and end within tokens, and consist of several: what of them belongs to
it is given to the grammar as it came, special tokens as themselves, parts of tokens as other tokens of the same bytes.
If the grammar knows a special token by its text, it is given that. A token that would end a trigger, and with it begin
what the grammar does not take, does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from canister.engine.sampling.binding import Binding
from canister.engine.sampling.samplers import Candidates

Piece = Callable[[int], bytes]
"""The bytes of a token, the name of a special one."""

Spell = Callable[[bytes], list[int]]
"""Tokens, none of them special, whose bytes these are."""


class Triggered:
    """Owns the binding."""

    def __init__(self, binding: Binding, triggers: Collection[str], piece: Piece, spell: Spell) -> None:
        self._binding = binding
        self._triggers = tuple(text.encode("utf-8", "replace") for text in triggers)
        self._n_kept = max(map(len, self._triggers)) - 1
        self._piece, self._spell = piece, spell
        self._recent: list[tuple[int, bytes]] = []  # as many tokens as a trigger may have begun in
        self._is_bound = False

    def fits(self, token: int) -> bool:
        if self._is_bound:
            return self._binding.fits(token)
        found = self._found(token)
        if found is None:
            return True
        entered = self._entered(*found)
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
        found = self._found(token)
        entered = None if found is None else self._entered(*found)
        if entered is not None:
            self._binding.close()
            self._binding, self._is_bound = entered, True
            self._recent = []
            return
        self._recent.append((token, self._piece(token)))
        n = sum(len(piece) for _, piece in self._recent)
        while self._recent and n - len(self._recent[0][1]) >= self._n_kept:
            n -= len(self._recent.pop(0)[1])

    def begun(self) -> Triggered:
        return Triggered(self._binding.begun(), [text.decode() for text in self._triggers], self._piece, self._spell)

    def close(self) -> None:
        self._binding.close()

    def _found(self, token: int) -> tuple[list[tuple[int, bytes]], int] | None:
        """With this token: the tokens from the one on in which a trigger begins, and how many bytes before it."""
        tokens = [*self._recent, (token, self._piece(token))]
        text = b"".join(piece for _, piece in tokens)
        starts = [at for at in (text.find(trigger) for trigger in self._triggers) if at >= 0]
        if not starts:
            return None
        n_before = min(starts)
        while n_before >= len(tokens[0][1]):
            n_before -= len(tokens.pop(0)[1])
        return tokens, n_before

    def _entered(self, tokens: list[tuple[int, bytes]], n_before: int) -> Binding | None:
        """The binding behind these tokens; None if it does not take them."""
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
