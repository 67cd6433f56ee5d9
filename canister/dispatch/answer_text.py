"""Tokens of an answer to pieces of its text. Pure: the same tokens give the same text, in whatever steps they come.

A piece never ends within a character, nor within what may become a stop string. Text held back comes with a later
piece.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from canister.api.tokens import Token
from canister.engine.stops import Stops

_new_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of an answer, and the tokens that end in it. Provisional until their call is committed."""

    text: str
    tokens: tuple[Token, ...]


class AnswerText:
    """Of one answer: `feed` its tokens, then `end`. `stop` is the stop string that was found."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        """Raises BadRequest for stop strings that are too many or too long."""
        self._stops = Stops(stops)
        self._has_stops = any(stops)
        self._decoder = _new_decoder(errors="replace")
        self._waiting: deque[tuple[int, int, Token]] = deque()  # where each begins and ends, in bytes; not shown yet
        self._n_fed = self._n_released = 0

    @property
    def stop(self) -> str | None:
        return self._stops.found

    def feed_one(self, token: Token) -> Piece | None:
        """The same for one token, most often whole characters that nothing waits for."""
        data = token.data
        if self._waiting or self._has_stops or not data or not data.isascii():
            return self.feed((token,))
        self._n_fed += len(data)
        self._n_released = self._n_fed
        return Piece(data.decode("ascii"), (token,))

    def feed(self, tokens: Iterable[Token]) -> Piece | None:
        """The text to show now; None if there is none."""
        text = ""
        for token in tokens:
            if self._stops.found is not None:
                break
            begin, self._n_fed = self._n_fed, self._n_fed + len(token.data)
            self._waiting.append((begin, self._n_fed, token))
            text += self._decode(self._stops.feed(token.data))
        if self._stops.found is not None:
            text += self._decoder.decode(b"", final=True)
        return Piece(text, self._shown()) if text else None

    def end(self) -> Piece | None:
        """The text that was held back, now that nothing more will come; None if there is none."""
        text = self._decode(self._stops.end()) + self._decoder.decode(b"", final=True)
        tokens = self._shown() if self._stops.found is not None else tuple(token for _, _, token in self._waiting)
        self._waiting.clear()
        return Piece(text, tokens) if text or tokens else None

    def _decode(self, data: bytes) -> str:
        self._n_released += len(data)
        return self._decoder.decode(data)

    def _shown(self) -> tuple[Token, ...]:
        """The tokens whose text is shown to its end. Where a stop cuts a token, its beginning is enough."""
        n_shown = self._n_released - len(self._decoder.getstate()[0])
        is_over, found = self._stops.found is not None, []
        while self._waiting:
            begin, end, token = self._waiting[0]
            if not (end <= n_shown or (is_over and begin < n_shown)):
                break
            self._waiting.popleft()
            found.append(token)
        return tuple(found)
