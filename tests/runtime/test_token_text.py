"""What is remembered of a chat's text is what would be worked out anew, whatever happened between the calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.engine import Engine
from canister.runtime.token_text import ChatTexts
from tests.harness import CHAT_MODEL, GREEDY, canister_in

PIECES = [
    b"",
    b"a",
    b" word",
    "é".encode()[:1],
    "é".encode()[1:],
    "🌍".encode()[:1],
    "🌍".encode()[1:3],
    "🌍".encode()[3:],
    "漢字".encode()[:4],
    "漢字".encode()[4:],
    b"\xff",
    b"\n",
]
SPECIAL = b"<|im_end|>"


class FakeEngine:
    """Tokens are places in PIECES, shifted; the one after them is special."""

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def piece(self, token: int, special: bool) -> bytes:
        if token == len(PIECES):
            return SPECIAL if special else b""
        return PIECES[(token + self.shift) % len(PIECES)]


def anew(engine: FakeEngine, tokens: list[int], special: bool) -> bytes:
    return b"".join(engine.piece(token, special) for token in tokens)


TOKENS = st.lists(st.integers(0, len(PIECES)), max_size=12)
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["one", "two", "three"]),
        st.booleans(),  # special tokens shown
        st.integers(0, 12),  # tokens of before that stay, as far as there are so many
        TOKENS,
        st.sampled_from([0, 0, 0, 1]),  # which engine
    ),
    max_size=25,
)


@given(calls=CALLS, max_bytes=st.sampled_from([0, 100, 1 << 20]))
def test_remembered_text_is_the_text_worked_out_anew(calls: list[tuple[Any, ...]], max_bytes: int) -> None:
    texts = ChatTexts(max_bytes)
    engines = [FakeEngine(), FakeEngine(shift=3)]
    chats: dict[str, list[int]] = {}
    for path, special, keep, more, which in calls:
        chats[path] = chats.get(path, [])[:keep] + more
        engine = engines[which]
        data = texts.bytes_of(cast(Engine, engine), np.array(chats[path], np.int32), special, path)
        assert data == anew(engine, chats[path], special)
        assert data.decode(errors="replace") == anew(engine, chats[path], special).decode(errors="replace")
        assert texts._n_bytes <= max_bytes
        assert texts._n_bytes == sum(known.n_bytes for known in texts._known.values())


PROMPTS = st.lists(
    st.tuples(st.sampled_from(["one", "two", None]), st.sampled_from(["", "a", "ab"]), st.sampled_from([0, 0, 1])),
    max_size=25,
)


@given(prompts=PROMPTS)
def test_remembered_prompt_tokens_are_those_of_this_prompt_and_engine(
    prompts: list[tuple[str | None, str, int]],
) -> None:
    texts = ChatTexts()
    engines = [cast(Engine, FakeEngine()), cast(Engine, FakeEngine(shift=3))]
    last: dict[str, tuple[str, int]] = {}
    in_use = None
    for path, prompt, which in prompts:
        of_this = np.array([which, len(prompt)], np.int32)
        found = texts.prompt_tokens(engines[which], path, prompt)
        is_known = path is not None and in_use == which and last.get(path) == (prompt, which)
        assert (found is not None) == is_known
        if found is not None:
            assert found.tolist() == of_this.tolist()
            continue
        texts.keep_prompt(engines[which], path, prompt, of_this)
        if path is not None:
            if in_use != which:
                last.clear()
            last[path], in_use = (prompt, which), which


def test_only_what_is_new_is_asked_for() -> None:
    asked: list[int] = []

    class Counting(FakeEngine):
        def piece(self, token: int, special: bool) -> bytes:
            asked.append(token)
            return super().piece(token, special)

    texts, engine = ChatTexts(), cast(Engine, Counting())
    texts.bytes_of(engine, np.array([1, 2, 1, 2], np.int32), True, "chat")
    texts.bytes_of(engine, np.array([1, 2, 1, 2, 9], np.int32), True, "chat")
    assert asked == [1, 2, 9]


@pytest.mark.anyio
@pytest.mark.parametrize("special", [(), ("--special",)])
async def test_the_conversation_of_every_call_is_the_text_of_the_cache(tmp_path: Path, special: tuple[str]) -> None:
    """Through dispatch, one token a call, so that characters are cut; then rolled back in the middle."""
    async with canister_in(tmp_path) as harness:
        await harness.load(CHAT_MODEL)
        await harness.limit(1)
        start = "<|im_start|>user\nGrüße 🌍 漢字"

        def of_cache() -> str:
            engine = harness.canister.model.engine
            assert engine is not None
            [cache] = harness.canister.caches._open.values()
            pieces = (engine.piece(int(token), bool(special)) for token in cache.container.tokens)
            return b"".join(pieces).decode(errors="replace")

        n_cut = 0
        for prompt in (start + " é<|im_end|>\n", start + " ü!<|im_end|>\n"):
            for _ in range(60):
                record = await harness.run(prompt, *GREEDY, *special)
                assert record.conversation == of_cache()
                n_cut += record.conversation.endswith("\ufffd")
                if not record.n_prompt_tokens_remaining:
                    break
            for _ in range(3):  # the answer
                record = await harness.run("", *GREEDY, *special)
                assert record.conversation == of_cache()
        assert n_cut > 2
