"""A model that says anything its grammar allows, byte by byte: what tests of grammars listen to."""

from __future__ import annotations

import random
from functools import cache

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

N_BYTES = 256
# What ends texts, which chance alone would not come upon.
_CLOSERS = (
    *('"', "}", "]", ")", "</param>", "<escape>", '<|"|>', "</atem:parameter>", "<|close|>argument<|sep|>"),
    *("</parameter>", "\n</parameter>", "</arg_value>", "</arg_value:opensource>", "</｜DSML｜parameter>"),
    *(
        "</｜DSML｜ parameter>",
        *(f"]<]minimax[>[</{name}>" for name in ("city", "item", "street", "zip")),
        "</think>",
        "\n",
    ),
)


class _Bytes:
    """256 tokens of a byte each, an end, and special tokens."""

    def __init__(self, special: tuple[str, ...]) -> None:
        self.eos_token_id = N_BYTES
        self.bos_token_id = None
        names = ["<eos>", *special]
        self.tokens = [bytes([byte]) for byte in range(N_BYTES)] + [b"\xff" + name.encode() for name in names]
        self.special_token_ids = list(range(N_BYTES, len(self.tokens)))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def _tokenizer(special: tuple[str, ...]) -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes(special)), slices=[])


def ids(special: tuple[str, ...]) -> dict[str, int]:
    """The special tokens' texts and ids."""
    return {text: N_BYTES + 1 + index for index, text in enumerate(special)}


def matcher(lark: str, special: tuple[str, ...] = ()) -> LLMatcher:
    made = LLMatcher(_tokenizer(special), LLMatcher.grammar_from_lark(lark), log_level=0)
    assert not made.is_error(), made.get_error() + lark
    return made


def tokens_of(text: str, special: tuple[str, ...] = ()) -> list[int]:
    tokens: list[int] = []
    numbers = ids(special)
    while text:
        found = next((one for one in special if text.startswith(one)), None)
        tokens += [numbers[found]] if found else list(text[0].encode())
        text = text[len(found) if found else 1 :]
    return tokens


def takes(lark: str, text: str, special: tuple[str, ...] = ()) -> bool:
    """May this be the whole output?"""
    one = matcher(lark, special)
    tokens = tokens_of(text, special)
    return one.try_consume_tokens(tokens) == len(tokens) and one.is_accepting()


def anything(lark: str, seed: int, special: tuple[str, ...] = (), n_most: int = 3000) -> str | None:
    """An output that the grammar allows, at random; None: it did not come to an end."""
    dice = random.Random(seed)
    one = matcher(lark, special)
    names = {number: text for text, number in ids(special).items()}
    said: list[int] = []
    while len(said) < n_most:
        mask = one.compute_logit_bias()
        allowed = [token for token, bias in enumerate(mask) if bias]
        if N_BYTES in allowed and (len(allowed) == 1 or dice.random() < 0.5):
            return b"".join(names[token].encode() if token > N_BYTES else bytes([token]) for token in said).decode()
        if dice.random() < 0.3 + len(said) / n_most:
            closer = tokens_of(dice.choice(_CLOSERS), special)
            if one.validate_tokens(closer) == len(closer):
                assert one.consume_tokens(closer)
                said += closer
                continue
        allowed = [token for token in allowed if token != N_BYTES]
        token = dice.choice([token for token in allowed if token < 128 or token > N_BYTES] or allowed)
        assert one.consume_token(token), one.get_error()
        said.append(token)
    return None
