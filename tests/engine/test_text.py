"""Text of token pieces, however they are cut."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from canister.engine.text import TextStream


def text_after(before: bytes, pieces: bytes, *, final: bool = False) -> str:
    """The text of a call whose tokens follow those before."""
    stream = TextStream(before)
    return stream.feed(pieces) + (stream.end() if final else "")


@given(st.lists(st.binary(max_size=5), max_size=20), st.lists(st.integers(0, 20), max_size=5))
@example([b"\xf0", b"\x9f", b"\x98", b"\x80"], [1, 2, 3])
@example([b"\xf0\x9f", b"a"], [1])
@example([b"\xe2\x82", b"\xe2\x82\xac"], [1])
def test_cut_texts_add_up(pieces: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(pieces).decode(errors="replace")
    edges = [0, *sorted(cut for cut in cuts if cut < len(pieces)), len(pieces)]
    parts = [
        text_after(b"".join(pieces[:start]), b"".join(pieces[start:stop]), final=stop == len(pieces) and i == last)
        for last in [len(edges) - 2]
        for i, (start, stop) in enumerate(itertools.pairwise(edges))
    ]
    assert "".join(parts) == whole


@given(st.text(), st.data())
def test_text_comes_back_from_its_bytes(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cut = data.draw(st.integers(0, len(encoded)))
    assert text_after(b"", encoded[:cut]) + text_after(encoded[:cut], encoded[cut:], final=True) == text


def test_a_stream_holds_back_half_a_character() -> None:
    stream = TextStream()
    assert [stream.feed(piece) for piece in (b"a\xe2", b"\x82", b"\xac!")] == ["a", "", "€!"]
    assert stream.feed(b"\xf0\x9f") == ""
    assert stream.end() == "\N{REPLACEMENT CHARACTER}"
