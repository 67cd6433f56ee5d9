"""What a GGUF file is good for, by its header: most models write token after token, others do something else.

llama.cpp opens files of all these kinds, and some of them crash it when they are asked for the next token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from canister.model_file.gguf import GgufFile

POOLINGS = {1: "mean", 2: "CLS", 3: "last token", 4: "rank"}

Pooling = Literal["mean", "cls", "last"]
_POOLINGS: dict[int, Pooling] = {1: "mean", 2: "cls", 3: "last"}

_EMBEDDING = "an embedding model", "it turns a text into numbers and writes none"
_DIFFUSION = "a diffusion model", "it fills in all words of an answer together instead of writing one after the other"
_TRANSLATOR = "an encoder-decoder model", "it rewrites a whole text that it has read before, and cannot continue one"
_DRAFT = "a draft model", "it only guesses what another model will say next, and reads that model's states for it"
_IMAGES = "an image encoder", "it turns pictures into the input of another model"
_SPEECH = "a speech model", "what it writes are codes of sounds"
_AUDIO = "an audio decoder", "it turns codes into sound"

ARCHITECTURES = {
    **dict.fromkeys(
        (
            *("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"),
            *("eurobert", "gemma-embedding", "llama-embed", "t5encoder"),
        ),
        _EMBEDDING,
    ),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1", "diffusion-gemma"), _DIFFUSION),
    "t5": _TRANSLATOR,
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), _DRAFT),
    "clip": _IMAGES,
    **dict.fromkeys(("qwen3tts", "pockettts"), _SPEECH),
    "wavtokenizer-dec": _AUDIO,
}
"""Architectures that never continue a text, whatever else the header says, with what each is and does instead."""

_FILES = {
    "adapter": ("a LoRA adapter", "it changes another model; merge it into that one"),
    "mmproj": _IMAGES,
    "imatrix": ("an importance matrix", "it serves to quantize a model"),
    "vocab": ("a vocabulary", "it has no weights"),
}


_NO_EMBEDDINGS = ("t5encoder",)  # embedding models that llama.cpp runs as the first half of a translator


@dataclass(frozen=True, slots=True)
class Embedding:
    """How a model turns a text into one vector. pooling: of its tokens' vectors. is_causal: a token sees only what
    stands before it, so that a text can be read in pieces.
    """

    pooling: Pooling
    is_causal: bool

    @property
    def reads_whole(self) -> bool:
        """Must all tokens of a text be in one decode?"""
        return not (self.is_causal and self.pooling == "last")


def embedding_of(header: GgufFile) -> Embedding | None:
    """How the model makes embeddings; None for one that makes none, or that is not run for them."""
    architecture = header.architecture
    number = header.integer(f"{architecture}.pooling_type") or 0
    if _kind(header) is not _EMBEDDING or architecture in _NO_EMBEDDINGS or POOLINGS.get(number) == "rank":
        return None
    is_causal = ARCHITECTURES.get(architecture) is None and _is_causal(header)
    return Embedding(_POOLINGS.get(number) or ("last" if is_causal else "mean"), is_causal)


def why_not_run(header: GgufFile) -> str | None:
    """As `why_no_chat`, but None also for a model that is run for embeddings."""
    return None if embedding_of(header) is not None else why_no_chat(header)


def why_no_chat(header: GgufFile) -> str | None:
    """One clause that says what the file is and does instead of continuing a text; None for a model that continues
    texts.
    """
    architecture = header.architecture
    pooling = POOLINGS.get(header.integer(f"{architecture}.pooling_type") or 0)
    is_causal = _is_causal(header)
    found = _kind(header)
    if found is None:
        return None
    is_a, does = found
    marks = [f"architecture {architecture[:40]!r}"] if architecture else []
    if found is _EMBEDDING:
        marks += [f"pooling {pooling!r}"] if pooling is not None else []
        marks += [] if is_causal else ["attention in both directions"]
    told = f" ({', '.join(marks)})" if marks else ""
    return f"it is {is_a}{told}: {does}; load a model that continues a text"


def _kind(header: GgufFile) -> tuple[str, str] | None:
    """What the file is and does; None for a model that continues texts."""
    architecture = header.architecture
    found = _FILES.get(header.text("general.type") or "") or ARCHITECTURES.get(architecture)
    if found is None and (header.integer(f"{architecture}.pooling_type") in POOLINGS or not _is_causal(header)):
        found = _EMBEDDING
    return found


def _is_causal(header: GgufFile) -> bool:
    return header.metadata.get(f"{header.architecture}.attention.causal", True) is not False
