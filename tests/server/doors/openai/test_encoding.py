"""JSON and server-sent events as bytes, whatever text is in them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from canister.server.doors.openai.encoding import encoded, sse

TEXT = st.text()


@given(st.dictionaries(TEXT, TEXT, max_size=3))
def test_openais_own_client_reads_an_event_with_any_text(content: dict[str, str]) -> None:
    (found,) = SSEDecoder().iter_bytes(iter([sse(content, "response.created")]))
    assert (found.event, found.json()) == ("response.created", content)
    (unnamed,) = SSEDecoder().iter_bytes(iter([sse(content)]))
    assert (unnamed.event, unnamed.json()) == (None, content)


def test_half_of_a_pair_is_a_question_mark() -> None:
    assert json.loads(encoded({"text": "a\ud83d"})) == {"text": "a?"}
