"""Texts and tokens of chats, kept in memory so that a call's work does not grow with its chat.

What is kept is compared with the tokens and the prompt at hand, and used as far as they agree. Losing it only costs
time. For the event loop's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from canister.engine.request import common_prefix

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.engine.request import Tokens

MAX_BYTES = 64 << 20

_NONE = np.empty(0, np.int32)


class _Pieces(dict[int, bytes]):
    """The bytes of tokens, each asked for once."""

    def __init__(self, engine: Engine, special: bool) -> None:
        self._engine = engine
        self._special = special

    def __missing__(self, token: int) -> bytes:
        piece = self[token] = self._engine.piece(token, self._special)
        return piece

    def of(self, tokens: Tokens) -> bytes:
        if not len(tokens):
            return b""
        return b"".join(map(self.__getitem__, tokens.tolist()))


@dataclass(slots=True)
class _Known:
    """Of one chat: the bytes of its tokens, with or without special ones, and the tokens of its last prompt."""

    special: bool = False
    tokens: Tokens = field(default_factory=lambda: _NONE)
    data: bytes = b""
    prompt: str = ""
    prompt_tokens: Tokens | None = None

    @property
    def n_bytes(self) -> int:
        n_prompt = 0 if self.prompt_tokens is None else self.prompt_tokens.nbytes + 4 * len(self.prompt)
        return self.tokens.nbytes + len(self.data) + n_prompt


class ChatTexts:
    """Texts of the most recently used chats, by the path of their prompt cache, for one engine at a time."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._engine: Engine | None = None
        self._pieces: dict[bool, _Pieces] = {}
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def clear(self) -> None:
        """Forget everything, the engine too."""
        self._engine = None
        self._pieces = {}
        self._known.clear()
        self._n_bytes = 0

    def bytes_of(self, engine: Engine, tokens: Tokens, special: bool, path: str | None = None) -> bytes:
        """The bytes of these tokens. path: of the chat that they belong to, for its next call."""
        pieces = self._pieces_of(engine, special)
        if path is None:
            return pieces.of(tokens)
        known = self._known.get(path) or _Known()
        if known.special == special:
            n = common_prefix(known.tokens, tokens)
            n_gone = sum(map(len, map(pieces.__getitem__, known.tokens[n:].tolist())))
            data = known.data[: len(known.data) - n_gone] + pieces.of(tokens[n:])
        else:
            data = pieces.of(tokens)
        self._keep(path, _Known(special, tokens, data, known.prompt, known.prompt_tokens))
        return data

    def prompt_tokens(self, engine: Engine, path: str | None, prompt: str) -> Tokens | None:
        """The tokens of this prompt if it was the chat's last one, as given to `keep_prompt`."""
        known = self._known.get(path) if path is not None and engine is self._engine else None
        return known.prompt_tokens if known is not None and known.prompt == prompt else None

    def keep_prompt(self, engine: Engine, path: str | None, prompt: str, tokens: Tokens) -> None:
        if path is None:
            return
        self._use(engine)
        known = self._known.get(path) or _Known()
        self._keep(path, _Known(known.special, known.tokens, known.data, prompt, tokens))

    def _use(self, engine: Engine) -> None:
        if engine is not self._engine:
            self.clear()
            self._engine = engine

    def _pieces_of(self, engine: Engine, special: bool) -> _Pieces:
        self._use(engine)
        pieces = self._pieces.get(special)
        if pieces is None:
            pieces = self._pieces[special] = _Pieces(engine, special)
        return pieces

    def _keep(self, path: str, known: _Known) -> None:
        before = self._known.pop(path, None)
        self._n_bytes += known.n_bytes - (before.n_bytes if before is not None else 0)
        self._known[path] = known
        while self._n_bytes > self._max_bytes:
            _, oldest = self._known.popitem(last=False)
            self._n_bytes -= oldest.n_bytes
