"""What a person wants to know of a model before loading it, from its header alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from canister.model_file.gguf import GgufFile

FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
}
"""llama.cpp's numbers of file types, `general.file_type`."""


@dataclass(frozen=True, slots=True)
class Summary:
    """title: the name that the file gives itself. chat_template: Jinja, empty for none."""

    architecture: str
    title: str
    quantization: str
    n_params: int
    chat_template: str


def summary(header: GgufFile) -> Summary:
    """A summary of any header. Pure."""
    return Summary(
        architecture=header.architecture,
        title=header.text("general.name") or "",
        quantization=quantization(header),
        n_params=sum(tensor.n_elements for tensor in header.tensors),
        chat_template=header.text("tokenizer.chat_template") or "",
    )


def quantization(header: GgufFile) -> str:
    """The file type that the header names, else the type of most of the weights."""
    number = header.integer("general.file_type")
    if number in FILE_TYPES and header.tensors:
        return FILE_TYPES[number]
    weights: Counter[str] = Counter()
    for tensor in header.tensors:
        weights[tensor.type.name] += tensor.n_elements
    return weights.most_common(1)[0][0].upper() if weights else ""
