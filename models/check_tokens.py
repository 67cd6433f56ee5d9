"""Checks that llama.cpp cuts text into the same tokens as the tokenizer of the training.

A model that is fed other tokens than it was trained on gets worse without any error, so this is
checked on chats, on digits and white space, and on random Unicode. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

if not __package__:  # Started as a file: make the package importable from anywhere.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gguf
import llama_cpp
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from models.chatml import SPECIAL_TOKENS, render
from models.corpus import conversations

HERE = Path(__file__).resolve().parent
ODD_TEXTS = (
    " ", "\n", "\n\n", " \n \n", "\t\tx", "a  b   c", "trailing  ", "  leading", "\r\nline\r\n", "1234567890",
    "3.14159", "x1y22z333", "It's we're they've I'll I'd I'm don't", "IT'S", "naïve café", "Grüße, Jürgen!",
    "你好\uff0c世界", "こんにちは", "مرحبا", "Привет", "🙂🙃", "\U0001f469\u200d\U0001f467",
    "a\u00a0b", "a\u2003b", "e\u0301", "½ ² Ⅻ ٣", "<|im_start", "<im_end>", "<|im_end|><|im_end|>",
    "a<|im_start|>b",
    "<|endoftext|>\n", "{'k': [1, 2]}", "a_b-c/d\\e", "\x00\x01\x7f", "\u2026\u2014\u2013\u201c\u201d",
)
_ALPHABETS = ((32, 126), (9, 13), (0xA0, 0x24F), (0x370, 0x5FF), (0x4E00, 0x4E80), (0x1F600, 0x1F640),
(0x2000, 0x206F))


def random_text(rng: Random) -> str:
    return "".join(chr(rng.randint(*rng.choice(_ALPHABETS))) for _ in range(rng.randint(1, 40)))


def samples(seed: int, count: int) -> Iterator[str]:
    yield from ODD_TEXTS
    yield from (render(chat) for chat in islice(conversations(seed), count))
    rng = Random(seed)
    yield from (random_text(rng) for _ in range(count))


def tokenizer_of(path: Path) -> Tokenizer:
    """The training's tokenizer, built again from the vocabulary and the merges in the file."""
    reader = gguf.GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    pairs = [(first, second) for first, second in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def differences(path: Path, seed: int = 7, count: int = 500) -> tuple[int, list[str]]:
    """How many texts were compared, and those that are cut differently."""
    tokenizer = tokenizer_of(path)
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    texts = list(samples(seed, count))
    different = [
        text
        for text in texts
        if model.tokenize(text.encode(), add_bos=False, special=True) != tokenizer.encode(text).ids
    ]
    return len(texts), different


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the tokens of llama.cpp and of the training.")
    parser.add_argument("--model", type=Path, default=HERE / "llama-canister-tiny.gguf")
    compared, different = differences(parser.parse_args().model)
    print(f"{compared - len(different)} of {compared} texts give the same tokens")
    print("\n".join(map(repr, different)))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
