"""`canister ao convert` and `export`: models of llama2.c become GGUF files, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from canister.ao.llama2c.layout import Layout


def convert_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="model.bin of llama2.c, version 0, 1 or 2.")],
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="Its tokenizer.bin.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The GGUF file to write.")],
    kind: Annotated[str, typer.Option("--type", help="How weights are stored: f32 or q8_0.")] = "f32",
) -> None:
    """Convert a model of llama2.c to a GGUF file.

    All sizes are checked first. A damaged file is refused, and nothing is written then.

    Example: canister ao convert stories15M.bin tokenizer.bin stories15M.gguf --type q8_0
    """
    from canister.ao.llama2c.convert import TYPES, convert

    if kind not in TYPES:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(TYPES)}", param_hint="--type")
    layout = convert(model, tokenizer, out, kind)
    print(f"wrote {out}: {_about(layout)}, {kind}, from version {layout.version}")


def export_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A GGUF file of the llama architecture.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model.bin to write.")],
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="The tokenizer.bin to write.")],
    version: Annotated[int, typer.Option(min=0, max=2, help="Of the file: 0 and 1 are f32, 2 is int8.")] = 0,
    group_size: Annotated[int, typer.Option(min=1, help="Of version 2: how many weights share a scale.")] = 64,
) -> None:
    """Export a GGUF file as the model.bin of llama2.c.

    A model that such a file cannot hold is refused, and nothing is written then.

    Example: canister ao export stories15M.gguf model.bin tokenizer.bin
    """
    from canister.ao.llama2c.export import export

    layout = export(model, out, tokenizer, version, group_size)
    print(f"wrote {out} and {tokenizer}: {_about(layout)}, version {layout.version}")


def _about(layout: Layout) -> str:
    shape = layout.shape
    return (
        f"{shape.layers} layers of width {shape.width}, a vocabulary of {shape.vocabulary} tokens, "
        f"a context of {shape.context}"
    )
