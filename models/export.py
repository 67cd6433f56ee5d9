"""Writes the trained network and its vocabulary into a q8_0 GGUF file for llama.cpp."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from torch import nn

from models.chatml import END, END_OF_TEXT, SPECIAL_TOKENS, TEMPLATE
from models.network import Shape, TinyLlama
from models.tokenizer import Vocabulary

NAME = "llama-canister tiny"
DESCRIPTION = (
    "A tiny chat model about canisters and everyday things, trained from scratch by models/train.py of"
    " llama-canister on text that the project generates itself."
)


def quantised(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.asarray(gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0))


def write_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name(NAME)
    writer.add_author("The llama-canister authors")
    writer.add_license("MIT")
    writer.add_description(DESCRIPTION)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)


def write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in vocabulary.tokens]
    )
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(ids[END_OF_TEXT])
    writer.add_eos_token_id(ids[END])
    writer.add_pad_token_id(ids[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def export(network: TinyLlama, vocabulary: Vocabulary, path: Path) -> None:
    """Write the file: matrices as q8_0, the small norm vectors as f32.

    The network already names its weights as llama.cpp does (`blk.0.attn_q.weight` and so on).
    """
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, network.shape)
    write_vocabulary(writer, vocabulary)
    parameters: dict[str, nn.Parameter] = dict(network.named_parameters())
    for name, parameter in parameters.items():
        weight = parameter.detach().float().numpy()
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            writer.add_tensor(name, quantised(weight), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
