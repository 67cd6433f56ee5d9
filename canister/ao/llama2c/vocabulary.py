"""A tokenizer.bin of llama2.c, and the same vocabulary as GGUF's metadata. No I/O here.

In the file a space is a space; in GGUF it is `▁`. Ids 0, 1 and 2 are the unknown token, the begin and the end of text.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from canister.ao.llama2c.layout import Llama2cError

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # llama.cpp's types of tokens
SPACE = "▁"
_SPECIAL = ("<unk>", "<s>", "</s>")
_IN_FILE = ("<unk>", "\n<s>\n", "\n</s>\n")  # as llama2.c's own exporter writes them
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_ENTRY = struct.Struct("<fI")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Texts as GGUF has them. scores: which merge comes first. types: llama.cpp's."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]


def read_tokenizer(data: bytes, n_tokens: int) -> Vocabulary:
    """n_tokens: how many the model has."""
    if len(data) < 4:
        raise Llama2cError(f"it has {len(data)} bytes, too few for a tokenizer of llama2.c")
    longest = int.from_bytes(data[:4], "little")
    texts: list[str] = []
    scores: list[float] = []
    at = 4
    for i in range(n_tokens):
        if at + _ENTRY.size > len(data):
            raise Llama2cError(f"it ends after {i} tokens; the model has {n_tokens}")
        score, length = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if length > longest:
            raise Llama2cError(f"token {i} has {length} bytes, and the longest is said to have {longest}")
        if at + length > len(data):
            raise Llama2cError(f"it is cut off within token {i}")
        if not math.isfinite(score):
            raise Llama2cError(f"the score of token {i} is no finite number")
        try:
            text = data[at : at + length].decode()
        except UnicodeDecodeError:
            raise Llama2cError(f"token {i} is no text in UTF-8") from None
        at += length
        texts.append(_SPECIAL[i] if i < len(_SPECIAL) else text.replace(" ", SPACE))
        scores.append(score)
    if at != len(data):
        raise Llama2cError(f"it has {len(data) - at} bytes more than the {n_tokens} tokens of the model")
    return Vocabulary(tuple(texts), tuple(scores), tuple(map(_type_of, range(n_tokens), texts)))


def write_tokenizer(texts: Sequence[str], scores: Sequence[float]) -> bytes:
    """texts: as GGUF has them."""
    shown = [_IN_FILE[i] if i < len(_IN_FILE) else text.replace(SPACE, " ") for i, text in enumerate(texts)]
    encoded = [text.encode() for text in shown]
    entries = [_ENTRY.pack(score, len(text)) + text for text, score in zip(encoded, scores, strict=True)]
    return struct.pack("<I", max(map(len, encoded), default=0)) + b"".join(entries)


def _type_of(i: int, text: str) -> int:
    if i < len(_SPECIAL):
        return UNKNOWN if i == 0 else CONTROL
    return BYTE if _BYTE_TOKEN.fullmatch(text) else NORMAL
