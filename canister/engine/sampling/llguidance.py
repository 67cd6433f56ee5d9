"""llguidance by its C interface: which tokens may follow in an answer bound to a Lark grammar or a JSON schema.

The library is that of the Python package. The package's classes hold the interpreter's lock while they sort a
vocabulary, for half a second where it is large; ctypes releases it. Nothing here knows what a grammar is for. One
thread at a time may use a matcher; everything else may be shared.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SPECIAL = b"\xff"  # before the name of a token that no text makes
_MESSAGE_BYTES = 4096

_Pointer = ctypes.c_void_p
_Uints = ctypes.POINTER(ctypes.c_uint32)


class _TokenizerInit(ctypes.Structure):
    """LlgTokenizerInitV2; the library reads as many bytes as struct_size says."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("vocab_size", ctypes.c_uint32),
        ("tok_eos", ctypes.c_uint32),
        ("token_lens", _Uints),
        ("token_bytes", ctypes.c_char_p),
        ("tokenizer_json", ctypes.c_char_p),
        ("tokenize_assumes_string", ctypes.c_bool),
        ("tokenize_fn", _Pointer),
        ("use_approximate_greedy_tokenize_fn", ctypes.c_bool),
        ("tokenize_user_data", _Pointer),
        ("slices", ctypes.POINTER(ctypes.c_char_p)),
        ("tok_eos_extra", _Uints),
        ("tok_eos_extra_count", ctypes.c_uint32),
    )


class _Limits(ctypes.Structure):
    """LlgParserLimits; what is 0 gets its default."""

    _fields_ = (
        ("max_items_in_row", ctypes.c_size_t),
        ("initial_lexer_fuel", ctypes.c_uint64),
        ("step_lexer_fuel", ctypes.c_uint64),
        ("step_max_items", ctypes.c_size_t),
        ("max_lexer_states", ctypes.c_size_t),
        ("max_grammar_size", ctypes.c_size_t),
        ("precompute_large_lexemes", ctypes.c_bool),
        ("verbose_errors", ctypes.c_bool),
    )


class _Init(ctypes.Structure):
    """LlgConstraintInit."""

    _fields_ = (
        ("tokenizer", _Pointer),
        ("log_buffer_level", ctypes.c_uint32),
        ("log_stderr_level", ctypes.c_uint32),
        ("ff_tokens_ok", ctypes.c_bool),
        ("backtrack_ok", ctypes.c_bool),
        ("limits", _Limits),
    )


@functools.cache
def _lib() -> Any:
    """The library, loaded for the first grammar: a server without any has 4 MB less."""
    import llguidance._lib as package

    lib = ctypes.CDLL(package.__file__)
    tokens = (_Uints, ctypes.c_size_t)
    for name, result, *arguments in (
        ("new_tokenizer_v2", _Pointer, _Pointer, ctypes.c_char_p, ctypes.c_size_t),
        ("free_tokenizer", None, _Pointer),
        ("tokenize_bytes", ctypes.c_size_t, _Pointer, ctypes.c_char_p, ctypes.c_size_t, *tokens),
        ("constraint_init_set_defaults", None, _Pointer, _Pointer),
        ("new_matcher", _Pointer, _Pointer, ctypes.c_char_p, ctypes.c_char_p),
        ("clone_matcher", _Pointer, _Pointer),
        ("free_matcher", None, _Pointer),
        ("matcher_get_error", ctypes.c_char_p, _Pointer),
        ("matcher_is_stopped", ctypes.c_bool, _Pointer),
        ("matcher_is_accepting", ctypes.c_bool, _Pointer),
        ("matcher_validate_tokens", ctypes.c_int32, _Pointer, *tokens),
        ("matcher_consume_tokens", ctypes.c_int32, _Pointer, *tokens),
        ("matcher_compute_mask_into", ctypes.c_int32, _Pointer, _Pointer, ctypes.c_size_t),
        ("matcher_get_mask_byte_size", ctypes.c_size_t, _Pointer),
    ):
        function = getattr(lib, f"llg_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


class GrammarFault(ValueError):
    """llguidance's complaint about a grammar that it rejects, or cannot continue with."""


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """What a grammar may cost; in llguidance's own units, which docs of LlgParserLimits tell.

    initial_fuel: to read its regular expressions, 50 000 a millisecond. step_fuel, step_items: of one mask, 14 000 and
    20 000 a millisecond. row_items: ways in which a text may have been read, such as one for each property that may
    be next. states: of its lexer, 2 KB each. size: symbols.
    """

    initial_fuel: int = 1_000_000
    step_fuel: int = 200_000
    step_items: int = 100_000
    row_items: int = 5000
    states: int = 50_000
    size: int = 500_000


class TokenTable:
    """A vocabulary as llguidance needs it. Making one takes up to a second; it gives the interpreter's lock away."""

    def __init__(self, pieces: Sequence[bytes], special: frozenset[int], eog: Sequence[int]) -> None:
        """pieces: bytes of each token, the names of special ones. special: no text makes them. eog: any may end."""
        texts = [_SPECIAL + piece if token in special else piece for token, piece in enumerate(pieces)]
        lengths = np.array([len(text) for text in texts], np.uint32)
        extra = np.array(eog[1:], np.uint32)
        init = _TokenizerInit(
            struct_size=ctypes.sizeof(_TokenizerInit),
            vocab_size=len(texts),
            tok_eos=eog[0] if eog else 0xFFFF_FFFF,
            token_lens=lengths.ctypes.data_as(_Uints),
            token_bytes=b"".join(texts),
            use_approximate_greedy_tokenize_fn=True,
            tok_eos_extra=extra.ctypes.data_as(_Uints),
            tok_eos_extra_count=len(extra),
        )
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        self.n_vocab = len(texts)
        self._pointer = _lib().llg_new_tokenizer_v2(ctypes.byref(init), message, len(message))
        if not self._pointer:
            raise GrammarFault(message.value.decode("utf-8", "replace"))

    def __del__(self) -> None:
        if getattr(self, "_pointer", None):
            _lib().llg_free_tokenizer(self._pointer)

    def spelled(self, text: bytes) -> list[int]:
        """Tokens, none of them special, whose bytes put together are these."""
        found = (ctypes.c_uint32 * max(1, len(text)))()
        return found[: _lib().llg_tokenize_bytes(self._pointer, text, len(text), found, len(found))]

    def matcher(self, kind: str, text: str, limits: GrammarLimits) -> Matcher:
        """kind: lark or json_schema. GrammarFault. May take a second; it gives the interpreter's lock away."""
        init = _Init()
        _lib().llg_constraint_init_set_defaults(ctypes.byref(init), self._pointer)
        init.log_buffer_level = init.log_stderr_level = 0
        init.limits.initial_lexer_fuel, init.limits.step_lexer_fuel = limits.initial_fuel, limits.step_fuel
        init.limits.step_max_items, init.limits.max_lexer_states = limits.step_items, limits.states
        init.limits.max_items_in_row = limits.row_items
        init.limits.max_grammar_size, init.limits.verbose_errors = limits.size, False
        if "\0" in text:
            raise GrammarFault("it holds a NUL character")
        made = Matcher(self, _lib().llg_new_matcher(ctypes.byref(init), kind.encode(), text.encode("utf-8", "replace")))
        made.check()
        return made


class Matcher:
    """The rest of a grammar."""

    def __init__(self, table: TokenTable, pointer: int) -> None:
        self._table, self._pointer = table, pointer  # the table must outlive it
        self._one = (ctypes.c_uint32 * 1)()

    def __del__(self) -> None:
        _lib().llg_free_matcher(self._pointer)

    def clone(self) -> Matcher:
        return Matcher(self._table, _lib().llg_clone_matcher(self._pointer))

    def check(self) -> None:
        """GrammarFault if it is unusable: the grammar is invalid, or cost more than it may."""
        told = _lib().llg_matcher_get_error(self._pointer)
        if told is not None:
            raise GrammarFault(told.decode("utf-8", "replace"))

    @property
    def is_over(self) -> bool:
        """Can nothing follow but the end?"""
        return bool(_lib().llg_matcher_is_stopped(self._pointer))

    @property
    def may_end(self) -> bool:
        return bool(_lib().llg_matcher_is_accepting(self._pointer))

    def takes(self, token: int) -> bool:
        """May this token follow?"""
        self._one[0] = token
        n = _lib().llg_matcher_validate_tokens(self._pointer, self._one, 1)
        if n < 0:
            self.check()
        return bool(n == 1)

    def take(self, tokens: Sequence[int] | NDArray[np.uint32]) -> int:
        """Advance by the leading tokens that may follow one another. Returns how many these are."""
        data = np.ascontiguousarray(tokens, np.uint32)
        pointer = data.ctypes.data_as(_Uints)
        n = _lib().llg_matcher_validate_tokens(self._pointer, pointer, len(data))
        if n < 0 or _lib().llg_matcher_consume_tokens(self._pointer, pointer, n) < 0:
            self.check()
        return int(n)

    def mask(self) -> NDArray[np.bool_]:
        """For each token of the vocabulary: may it follow?"""
        n_bytes = _lib().llg_matcher_get_mask_byte_size(self._pointer)
        bits = np.zeros(n_bytes, np.uint8)
        if _lib().llg_matcher_compute_mask_into(self._pointer, bits.ctypes.data, n_bytes) < 0:
            self.check()
        return np.unpackbits(bits, count=self._table.n_vocab, bitorder="little").view(np.bool_)
