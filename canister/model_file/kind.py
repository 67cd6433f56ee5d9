"""What a GGUF file is good for, by its header: most models write token after token, others do something else.

llama.cpp opens files of all these kinds, and some of them crash it when they are asked for the next token.
"""

from __future__ import annotations

from canister.model_file.gguf import GgufFile

POOLINGS = {1: "mean", 2: "CLS", 3: "last token", 4: "rank"}

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


def why_no_chat(header: GgufFile) -> str | None:
    """One clause that says what the file is and does instead of continuing a text; None for a model that continues
    texts.
    """
    architecture = header.architecture
    pooling = POOLINGS.get(header.integer(f"{architecture}.pooling_type") or 0)
    is_causal = header.metadata.get(f"{architecture}.attention.causal", True) is not False
    found = _FILES.get(header.text("general.type") or "") or ARCHITECTURES.get(architecture)
    if found is None and (pooling is not None or not is_causal):
        found = _EMBEDDING
    if found is None:
        return None
    is_a, does = found
    marks = [f"architecture {architecture[:40]!r}"] if architecture else []
    if found is _EMBEDDING:
        marks += [f"pooling {pooling!r}"] if pooling is not None else []
        marks += [] if is_causal else ["attention in both directions"]
    told = f" ({', '.join(marks)})" if marks else ""
    return f"it is {is_a}{told}: {does}; load a model that continues a text"
