"""Candid text cut into tokens, read from front to back, and the meaning of texts in quotes."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from canister.ic.candid.types import CandidError

SHOWN_CHARACTERS = 40

_SPACE = re.compile(r"(?:[ \t\r\n]++|//[^\n]*+)*+")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_TOKEN = re.compile(
    r"""(?P<word>[A-Za-z_][A-Za-z0-9_]*+)
      | (?P<float>(?:[0-9][0-9_]*+)?\.[0-9_]*+(?:[eE][+-]?[0-9]++)?+|[0-9][0-9_]*+[eE][+-]?[0-9]++)
      | (?P<number>0[xX][0-9a-fA-F][0-9a-fA-F_]*+|[0-9][0-9_]*+)
      | (?P<text>"[^"\\]*+(?:\\.[^"\\]*+)*+")
      | (?P<mark>->|[(){};,:=.+-])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r"""[^\\]++|\\(?:(?P<letter>[nrt\\"'])|(?P<byte>[0-9a-fA-F]{2})|u\{(?P<scalar>[0-9a-fA-F][0-9a-fA-F_]*+)\})""",
    re.DOTALL,
)
_LETTERS = {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\", '"': b'"', "'": b"'"}


@dataclass(frozen=True, slots=True)
class Token:
    """kind: a group of _TOKEN, or `end`."""

    kind: str
    text: str
    at: int


class Tokens:
    """token: the next one. most: of them. Errors are raised as CandidError, with line and column."""

    def __init__(self, text: str, most: int | None = None) -> None:
        self._text = text
        self._most = most
        self._n_read = 0
        self._after = 0  # end of the last token
        self.token = self._read()

    def _read(self) -> Token:
        at = self._skip_space(self._after)
        self._n_read += 1
        if self._most is not None and self._n_read > self._most:
            raise self.error(Token("end", "", at), f"more than {self._most} words, numbers, texts and marks")
        match = _TOKEN.match(self._text, at)
        if match is not None:
            self._after = match.end()
            return Token(str(match.lastgroup), match[0], at)
        place = Token("end", "", at)
        if at < len(self._text):
            what = "a text without its closing quote" if self._text[at] == '"' else f"{self._text[at]!r} is not Candid"
            raise self.error(place, what)
        self._after = at
        return place

    def _skip_space(self, at: int) -> int:
        """Past white space and comments; those between /* and */ may be nested."""
        while True:
            at = _SPACE.match(self._text, at).end()  # type: ignore[union-attr]  # it matches the empty text too
            if not self._text.startswith("/*", at):
                return at
            start, depth = at, 0
            while True:
                edge = _COMMENT_EDGE.search(self._text, at)
                if edge is None:
                    raise self.error(Token("end", "", start), "a comment is not closed")
                at = edge.end()
                depth += 1 if edge[0] == "/*" else -1
                if depth == 0:
                    break

    def next(self) -> Token:
        token = self.token
        self.token = self._read()
        return token

    def back_to(self, token: Token) -> None:
        self._after = token.at
        self.token = self._read()

    def is_mark(self, mark: str) -> bool:
        return self.token.kind == "mark" and self.token.text == mark

    def skip(self, mark: str) -> bool:
        if not self.is_mark(mark):
            return False
        self.next()
        return True

    def expect(self, mark: str) -> None:
        if not self.skip(mark):
            raise self.error(self.token, f"{mark!r} expected, not {self.shown()}")

    # -- texts

    def expect_text(self) -> Token:
        token = self.next()
        if token.kind != "text":
            raise self.error(token, f"a text in quotes expected, not {self.shown(token)}")
        return token

    def string(self, token: Token) -> str:
        try:
            return self.data(token).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(token, f"the text is not UTF-8: {error.reason}") from None

    def data(self, token: Token) -> bytes:
        """The bytes between the quotes, with the escapes resolved."""
        body = token.text[1:-1]
        if "\\" not in body:
            return self._utf8(token, body)
        if body[::3].count("\\") * 3 == len(body):  # all in hex, as blobs are written: worth a short way
            with contextlib.suppress(ValueError):
                data = bytes.fromhex(body.replace("\\", ""))
                if len(data) * 3 == len(body):  # it skips spaces
                    return data
        parts = []
        at = 0
        while at < len(body):
            match = _ESCAPE.match(body, at)
            place = Token("text", body[at : at + 2], token.at + 1 + at)
            if match is None:
                raise self.error(
                    place, f"{place.text} is no escape: \\n \\r \\t \\\\ \\\" \\' \\u{{…}} or two hex digits"
                )
            at = match.end()
            if match["letter"]:
                parts.append(_LETTERS[match["letter"]])
            elif match["byte"]:
                parts.append(bytes.fromhex(match["byte"]))
            elif match["scalar"]:
                parts.append(self._scalar(place, match["scalar"].replace("_", "")))
            else:
                parts.append(self._utf8(place, match[0]))
        return b"".join(parts)

    def _scalar(self, place: Token, digits: str) -> bytes:
        number = int(digits, 16) if len(digits.lstrip("0")) <= 6 else 0x110000
        if number > 0x10FFFF or 0xD800 <= number < 0xE000:
            raise self.error(place, "an escape names no character of Unicode")
        return chr(number).encode("utf-8")

    def _utf8(self, token: Token, text: str) -> bytes:
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.error(token, f"the text is not Unicode: {error.reason}") from None

    # -- errors

    def shown(self, token: Token | None = None) -> str:
        token = token or self.token
        if token.kind == "end":
            return "the end"
        text = token.text
        return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"

    def error(self, token: Token, what: str) -> CandidError:
        line = self._text.count("\n", 0, token.at) + 1
        column = token.at - (self._text.rfind("\n", 0, token.at) + 1) + 1
        return CandidError(f"line {line}, column {column}: {what}")
