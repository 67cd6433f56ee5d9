"""The client of an answer gets each event once, however often and in whichever order of choices workers tell it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.herd.jobs import StreamBroken
from canister.herd.told_events import EVENTS, LINES, ToldEvents

PIECES = st.lists(st.tuples(st.integers(0, 2), st.text(max_size=5)), min_size=1, max_size=20)


def sse(choice: int, text: str, at: int = 0) -> bytes:
    content = {"created_at": at, "choices": [{"index": choice, "delta": {"content": text}}]}
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def by_choice(events: list[tuple[int, str]]) -> dict[int, list[str]]:
    return {choice: [text for one, text in events if one == choice] for choice in range(3)}


def read(data: bytes) -> list[tuple[int, str]]:
    found = (
        json.loads(one.removeprefix(b"data: "))["choices"][0] for one in data.split(b"\n\n") if one not in (b"", b":")
    )
    return [(one["index"], one["delta"]["content"]) for one in found]


@given(PIECES, st.data())
def test_each_event_comes_once(pieces: list[tuple[int, str]], data: st.DataObject) -> None:
    """Tries break off anywhere, mix their choices in other ways, and have other times and silences."""
    told, client = ToldEvents(), bytearray()
    for n_try in range(3):
        order = data.draw(st.permutations(range(len(pieces))))
        wanted = {choice: iter(texts) for choice, texts in by_choice(pieces).items()}
        mixed = [(pieces[n][0], next(wanted[pieces[n][0]])) for n in order]
        end = len(mixed) if n_try == 2 else data.draw(st.integers(0, len(mixed)))
        told.begin(EVENTS)
        stream = [sse(*piece, at=n_try) for piece in mixed[:end]]
        while stream:  # several may come together
            n = data.draw(st.integers(1, 3))
            client += told.take(b"".join(stream[:n]))
            del stream[:n]
            if n_try:
                client += told.take(b":\n\n")
    assert by_choice(read(bytes(client))) == by_choice(pieces)


def test_lines_of_json_and_their_silences() -> None:
    silence = b'{"model":"m","created_at":"1","message":{"role":"assistant","content":""},"done":false}\n'
    first, second = (silence.replace(b'content":""', b'content":"%s"' % text) for text in (b"One", b"Two"))
    last = b'{"model":"m","done":true,"total_duration":5}\n'
    told = ToldEvents()
    told.begin(LINES)
    assert told.take(silence) + told.take(first) == silence + first
    told.begin(LINES)
    assert told.take(first) == told.take(silence) == b""
    assert told.take(second + last) == second + last
    told.begin(LINES)
    assert told.take(first + second + last.replace(b"5", b"6")) == b""


def test_another_text_is_not_gone_on_with() -> None:
    told = ToldEvents()
    told.begin(EVENTS)
    told.take(sse(0, "Once") + sse(1, "A"))
    told.begin(EVENTS)
    assert told.take(sse(1, "A")) == b""
    with pytest.raises(StreamBroken, match="not exact"):
        told.take(sse(0, "Twice"))
    with pytest.raises(StreamBroken, match="application/json"):
        told.begin("application/json")
