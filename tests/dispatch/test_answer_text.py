"""Tokens to text: whole characters, nothing of what becomes a stop string, each token with the text that it ends in."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from canister.api.tokens import Token
from canister.dispatch.answer_text import AnswerText, Piece

STOPS = st.lists(st.text(alphabet="ab€", min_size=1, max_size=4), max_size=3)
PIECES = st.lists(st.text(alphabet="ab€🦙", max_size=4).map(str.encode) | st.binary(max_size=3), max_size=12)


def read(stops: list[str], steps: list[list[Token]]) -> tuple[list[Piece], str | None]:
    text = AnswerText(stops)
    pieces = [*map(text.feed, steps), text.end()]
    return [piece for piece in pieces if piece is not None], text.stop


@given(STOPS, PIECES, st.data())
def test_the_same_tokens_give_the_same_however_many_come_at_once(
    stops: list[str], pieces: list[bytes], data: st.DataObject
) -> None:
    tokens = [Token(n, piece) for n, piece in enumerate(pieces)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=4)))
    borders = [0, *cuts, len(tokens)]
    cut = read(stops, [tokens[a:b] for a, b in itertools.pairwise(borders)])
    single = read(stops, [[token] for token in tokens])
    for found, stop in (cut, single):
        assert stop == single[1]
        assert "".join(piece.text for piece in found) == "".join(piece.text for piece in single[0])
        assert [token for piece in found for token in piece.tokens] == [
            token for piece in single[0] for token in piece.tokens
        ]


@given(PIECES)
def test_without_a_stop_all_is_shown_and_all_tokens_are_given(pieces: list[bytes]) -> None:
    tokens = [Token(n, piece) for n, piece in enumerate(pieces)]
    found, stop = read([], [[token] for token in tokens])
    assert stop is None
    assert "".join(piece.text for piece in found) == b"".join(pieces).decode(errors="replace")
    assert [token for piece in found for token in piece.tokens] == tokens


@given(STOPS.filter(bool), PIECES)
def test_no_stop_is_ever_shown(stops: list[str], pieces: list[bytes]) -> None:
    found, stop = read(stops, [[Token(n, piece)] for n, piece in enumerate(pieces)])
    text = "".join(piece.text for piece in found)
    assert not any(each in text for each in stops)
    whole = b"".join(pieces)
    assert (stop is not None) == any(each.encode() in whole for each in stops)


def test_a_token_comes_with_the_piece_that_shows_its_end() -> None:
    first, second, third = (Token(n, data) for n, data in enumerate([b"a\xe2", b"\x82\xac", b"b"]))
    found, _ = read([], [[first], [second], [third]])
    assert found == [Piece("a", ()), Piece("€", (first, second)), Piece("b", (third,))]


def test_of_what_a_stop_takes_back_no_token_is_given() -> None:
    tokens = [Token(n, data) for n, data in enumerate([b"one", b" END", b"x", b"y"])]
    found, stop = read([" ENDx"], [[token] for token in tokens])
    assert (found, stop) == ([Piece("one", (tokens[0],))], " ENDx")
    found, _ = read(["D"], [[token] for token in tokens])
    assert found == [Piece("one", (tokens[0],)), Piece(" EN", (tokens[1],))]


def test_the_end_of_generation_is_a_token_without_text() -> None:
    tokens = [Token(0, b"yes"), Token(2, b"")]
    assert read([], [tokens[:1], tokens[1:]])[0] == [Piece("yes", (tokens[0],)), Piece("", (tokens[1],))]
