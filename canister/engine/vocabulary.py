"""The vocabulary of a loaded model: texts as tokens, tokens as bytes, and which tokens are no text."""

from __future__ import annotations

import ctypes
from functools import cached_property
from itertools import repeat

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from canister.engine.llama_types import EngineFault, FillIn
from canister.errors import BadRequest

_CONTROL, _UNUSED = lib.LLAMA_TOKEN_ATTR_CONTROL, lib.LLAMA_TOKEN_ATTR_UNUSED
# 150 000 short calls: each is twice as fast where it neither lets go of Python's lock nor has its arguments checked.
_attributes_of = ctypes.PyDLL(lib.llama_cpp._lib._name)["llama_vocab_get_attr"]
_MOST_MORE_TOKENS = 128  # that one of two vocabularies may have, as in llama.cpp
_FIRST_COMPARED = 5  # token; those before it are special ones, with other names here and there
_FILL_IN = (
    lib.llama_vocab_fim_pre,
    lib.llama_vocab_fim_suf,
    lib.llama_vocab_fim_mid,
    lib.llama_vocab_fim_rep,
    lib.llama_vocab_fim_sep,
)


class Vocabulary:
    """Thread-safe. It lies in its model's memory, so whoever holds it holds the model."""

    def __init__(self, vocab: object) -> None:
        """vocab: llama.cpp's own, which is not of the type that has no tokens."""
        self.vocab = vocab
        self.n_vocab: int = lib.llama_vocab_n_tokens(vocab)
        self.vocab_type: int = lib.llama_vocab_type(vocab)
        self._bos: int = lib.llama_vocab_bos(vocab)
        self.add_bos: bool = lib.llama_vocab_get_add_bos(vocab) and self._bos >= 0
        self.bos_token = self._text_of(self._bos)
        self.eos_token = self._text_of(lib.llama_vocab_eos(vocab))
        self.fill_in = FillIn(*(of(vocab) for of in _FILL_IN))
        self._pieces: dict[tuple[int, bool], bytes] = {}

    def _text_of(self, token: int) -> str:
        """The text of a special token; "" where the vocabulary has none."""
        return self._read_piece(token, True).decode("utf-8", "replace") if 0 <= token < self.n_vocab else ""

    def tokenize(self, text: str, add_bos: bool, special: bool) -> list[int]:
        """Tokens of a text. add_bos: if the vocabulary says so. special: parse the likes of <|im_end|>.

        BOS is put in front here. llama.cpp adds either everything that the vocabulary asks for, EOS and separators too,
        or nothing, and some of its tokenizers ignore what the vocabulary says about BOS.
        """
        data = text.encode("utf-8", "replace")
        before = [self._bos] if add_bos and self.add_bos else []
        return before + self._tokens(data, framed=False, special=special)

    def tokenize_framed(self, text: str) -> list[int]:
        """Tokens of a whole text, with all that the vocabulary puts around one, special tokens parsed."""
        return self._tokens(text.encode("utf-8", "replace"), framed=True, special=True)

    def _tokens(self, data: bytes, *, framed: bool, special: bool) -> list[int]:
        room = len(data) + 3
        while True:
            tokens = (lib.llama_token * room)()
            n = lib.llama_tokenize(self.vocab, data, len(data), tokens, room, framed, special)
            if n >= 0:
                return tokens[:n]
            if -n <= room or n == -(2**31):
                raise EngineFault(f"a text of {len(data)} bytes does not tokenize ({n})")
            room = -n

    def piece(self, token: int, special: bool) -> bytes:
        """Bytes of a token, possibly part of a character. special: show special tokens, else empty."""
        known = self._pieces.get((token, special))
        if known is None:
            known = self._pieces[token, special] = self._read_piece(token, special)
        return known

    def pieces(self) -> list[bytes]:
        """The bytes of all tokens, the names of special ones; half a second for a large vocabulary."""
        read, vocab, room = lib.llama_token_to_piece, self.vocab, 64
        buffer = ctypes.create_string_buffer(room)
        lengths = ((token, read(vocab, token, buffer, room, 0, True)) for token in range(self.n_vocab))
        return [buffer.raw[:n] if n >= 0 else self._read_piece(token, True) for token, n in lengths]

    def _read_piece(self, token: int, special: bool) -> bytes:
        if not 0 <= token < self.n_vocab:
            raise BadRequest(f"There is no token {token}: the vocabulary has {self.n_vocab}")
        buffer = ctypes.create_string_buffer(64)
        n = lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:n]

    def unlike(self, other: Vocabulary) -> str | None:
        """Why tokens of another vocabulary cannot stand for those of this one, by llama.cpp's rules for drafts; None:
        they can. A tenth of a second for large ones.
        """
        if self.vocab_type != other.vocab_type:
            return "its tokenizer is of another kind"
        for name, adds, token_of in (
            ("begins", lib.llama_vocab_get_add_bos, lib.llama_vocab_bos),
            ("ends", lib.llama_vocab_get_add_eos, lib.llama_vocab_eos),
        ):
            mine, theirs = (bool(adds(each.vocab)) for each in (self, other))
            if mine != theirs or (mine and token_of(self.vocab) != token_of(other.vocab)):
                return f"the token with which a text {name} is another one"
        if abs(self.n_vocab - other.n_vocab) > _MOST_MORE_TOKENS:
            return f"it has {other.n_vocab} tokens, and the model {self.n_vocab}"
        text = lib.llama_vocab_get_text
        for token in range(_FIRST_COMPARED, min(self.n_vocab, other.n_vocab)):
            mine_text, their_text = text(self.vocab, token), text(other.vocab, token)
            if mine_text != their_text:
                shown = [(each or b"").decode("utf-8", "replace")[:40] for each in (their_text, mine_text)]
                return f"its token {token} is {shown[0]!r}, and the model's is {shown[1]!r}"
        return None

    def is_eog(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    @cached_property
    def longest_piece_bytes(self) -> int:
        # Not through `piece`: a vocabulary of 150 000 tokens kept as Python objects would take 30 MB.
        return max(len(self._read_piece(token, True)) for token in range(self.n_vocab))

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Tokens that no text makes, such as <|im_end|>, by their names. Slow at first, for a large vocabulary."""
        named = self._with(_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN)
        return {self._text_of(token): token for token in (*named, *self.eog_tokens)}

    @cached_property
    def untexted_tokens(self) -> frozenset[int]:
        """Tokens that are no text in an answer: special ones, those that end it, and those that mean nothing."""
        return frozenset(self._with(_UNUSED)).union(self.special_tokens.values())

    def _with(self, attributes: int) -> list[int]:
        found: list[int] = np.flatnonzero(self._attributes & attributes).tolist()
        return found

    @cached_property
    def _attributes(self) -> NDArray[np.int16]:
        vocab = ctypes.c_void_p(self.vocab)  # type: ignore[arg-type]  # an address
        return np.fromiter(map(_attributes_of, repeat(vocab), range(self.n_vocab)), np.int16, self.n_vocab)

    @cached_property
    def suppressed_tokens(self) -> tuple[int, ...]:
        """Those that the model file forbids."""
        n = ctypes.c_int32()
        tokens = lib.llama_vocab_get_suppress_tokens(self.vocab, ctypes.byref(n))
        return tuple(tokens[: n.value]) if n.value else ()

    @cached_property
    def eog_tokens(self) -> tuple[int, ...]:
        # llama.cpp makes those that it knows by their texts control tokens, whatever the file says.
        ends = (lib.llama_vocab_eos(self.vocab), lib.llama_vocab_eot(self.vocab))
        likely = {*np.flatnonzero(self._attributes != lib.LLAMA_TOKEN_ATTR_NORMAL).tolist(), *ends} - {-1}
        return tuple(token for token in sorted(likely) if self.is_eog(token))
