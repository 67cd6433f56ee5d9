"""Token pieces to text. A piece may end within a character; text has whole characters only, the rest waits.

However pieces are cut into calls, the texts of the calls put together are the text of all pieces.
"""

from __future__ import annotations

import codecs

_LONGEST_TAIL = 3  # bytes: an incomplete character of UTF-8 is at most this long

_new_decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """Text of pieces as they come. before: bytes that came earlier, in case a character begins there."""

    def __init__(self, before: bytes = b"") -> None:
        self._decoder = _new_decoder(errors="replace")
        self._decoder.decode(before[-_LONGEST_TAIL:])

    def feed(self, piece: bytes) -> str:
        """The characters that this piece completes. Bytes that are no UTF-8 become U+FFFD."""
        return self._decoder.decode(piece)

    def end(self) -> str:
        """U+FFFD if a character has begun and nothing more will come."""
        return self._decoder.decode(b"", final=True)
