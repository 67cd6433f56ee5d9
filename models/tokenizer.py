"""The byte-level BPE vocabulary of the tiny model, trained on its own text.

The pieces before merging are those of GPT-2, which both `tokenizers` and llama.cpp (`pre` = `gpt-2`)
implement, so that both give the same tokens for any text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from models.chatml import END, SPECIAL_TOKENS, START, Message, render


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A vocabulary of exactly `size` tokens: the special ones, all 256 bytes, then merges."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != size:
        raise ValueError(f"the text gives only {tokenizer.get_vocab_size()} of {size} tokens")
    return tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """What the GGUF file stores of a tokenizer."""

    tokens: list[str]
    merges: list[str]


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    table: dict[str, int] = tokenizer.get_vocab()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    # Older versions of `tokenizers` write a merge as one string, newer ones as a pair.
    joined = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    return Vocabulary(tokens=sorted(table, key=table.__getitem__), merges=joined)


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens; `learn[i]` says whether token i belongs to an answer."""

    tokens: list[int]
    learn: list[bool]


def encode_conversations(tokenizer: Tokenizer, chats: Sequence[Sequence[Message]], longest: int) -> list[Encoded]:
    """Tokens of whole conversations, with the answers and their end marks set to be learnt."""
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    newline = tokenizer.encode("\n").ids[0]
    encoded = []
    for chat, encoding in zip(chats, tokenizer.encode_batch([render(chat) for chat in chats]), strict=True):
        roles = iter(message.role for message in chat)
        learn: list[bool] = []
        answering = in_header = False
        for token in encoding.ids:
            if token == start:
                answering, in_header = next(roles) == "assistant", True
                learn.append(False)
            elif in_header:
                in_header = token != newline
                learn.append(False)
            else:
                learn.append(answering)
                if token == end:
                    answering = False
        encoded.append(Encoded(encoding.ids[:longest], learn[:longest]))
    return encoded
