"""`output` of a run, as it grows: the echoed prompt tokens, then the sampled ones.

A token may end within a character. Its first bytes are held back and begin the output of the call that continues, so
that the outputs of a chat's calls make the text of one call. A listener gets the pieces of text one by one; put
together they are `output`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from canister.engine.text import TextStream

if TYPE_CHECKING:
    from canister.engine.request import GenerateResult, Sampled
    from canister.handlers.conversation import CachedConversation
    from canister.runtime.call import OnText

LONGEST_CHARACTER_BYTES = 4


class Output:
    """For the event loop's thread."""

    def __init__(self, chat: CachedConversation, *, special: bool, on_text: OnText | None = None) -> None:
        self._engine = chat.engine
        self._chat = chat
        self._special = special
        self._on_text = on_text
        self._stream: TextStream | None = None
        self._n_sampled = 0
        self._texts: list[str] = []

    def sampled(self, tokens: list[Sampled]) -> None:
        """Tokens that were just sampled, so all of the prompt is in."""
        stream = self._begun(len(self._chat.prompt))
        self._n_sampled += len(tokens)
        self._add(stream.feed(self._bytes([one.token for one in tokens])))

    def end(self, result: GenerateResult) -> str:
        """All of `output`, once the call has ended."""
        stream = self._begun(self._chat.n_cached + result.n_prompt_decoded)
        self._add(stream.feed(self._bytes(result.sampled[self._n_sampled :])))
        if result.finish == "stop":  # nothing will follow, so an incomplete character is shown too
            self._add(stream.end())
        return "".join(self._texts)

    def _begun(self, n_taken: int) -> TextStream:
        """The first time, echo the prompt tokens that `output` echoes, of the n_taken that are in."""
        if self._stream is None:
            first = n_taken - n_echoed(n_taken, self._engine.info.n_batch)
            self._stream = TextStream(self._before(first) if n_taken == self._chat.n_cached else b"")
            self._add(self._stream.feed(self._bytes(self._chat.prompt[first:n_taken].tolist())), is_echo=True)
        return self._stream

    def _before(self, first: int) -> bytes:
        """The bytes of the generated tokens before the first shown one, as many as a character may have."""
        before = b""
        tokens, generated = self._chat.tokens, self._chat.generated
        for at in range(first - 1, -1, -1):
            if not generated[at] or len(before) >= LONGEST_CHARACTER_BYTES:
                break
            before = self._engine.piece(int(tokens[at]), self._special) + before
        return before

    def _bytes(self, tokens: list[int]) -> bytes:
        return b"".join(self._engine.piece(token, self._special) for token in tokens)

    def _add(self, text: str, *, is_echo: bool = False) -> None:
        if not text:
            return
        self._texts.append(text)
        if self._on_text is not None:
            self._on_text(text, is_echo)


def n_echoed(n_taken: int, n_batch: int) -> int:
    """How many of the last of n_taken prompt tokens `output` echoes: those in batches of exactly one token.

    The original shows them as if they were generated. It forms batches of n_batch over the whole prompt before it looks
    at the cache, so only the last batch can be that short.
    """
    if n_batch == 1:
        return n_taken
    return 1 if n_taken % n_batch == 1 else 0
