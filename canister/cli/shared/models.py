"""The subject of `estimate`, `fit` and `probe`: a model file, llama.cpp flags, and what a call may take."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.defaults import UPDATE_LIMIT

if TYPE_CHECKING:
    from canister.flags.parse import RunArgs
    from canister.model_file.shape import ModelShape

NO_LIMIT = "none"
DEFAULT_LIMIT = str(UPDATE_LIMIT)


class PageCost(StrEnum):
    mainnet = "mainnet"
    legacy = "legacy"


ModelFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A GGUF; its weights are not read.", show_default=False)
]
Flags = Annotated[
    str,
    typer.Option(
        "--args",
        metavar="FLAGS",
        help="llama.cpp flags as load_model and run_update take them, in one string: '--ctx-size 4096 -b 8'.",
        show_default=False,
    ),
]
Pages = Annotated[
    PageCost,
    typer.Option(
        "--page-cost",
        metavar="|".join(PageCost),
        help="Price of touching memory: mainnet since 2026-07-30; legacy before that and on local replicas.",
    ),
]
Limit = Annotated[
    str,
    typer.Option(
        "--instruction-limit", metavar="N|none", help="Instructions that a call may take (queries: 5000000000)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_model(file: Path) -> ModelShape:
    """The shape of a model, from the header of its file. BadRequest, typer.BadParameter."""
    from canister.errors import BadRequest
    from canister.model_file import parts
    from canister.model_file.shape import read_shape

    if not file.is_file():
        raise typer.BadParameter(f"{file} is not a file")
    try:
        return read_shape(parts.read_model(file))
    except BadRequest as error:
        raise BadRequest(f"{file}: {error}") from error


def read_flags(text: str) -> RunArgs:
    """The flags in a string that is quoted as for a shell. Raises typer.BadParameter."""
    from canister.flags.parse import ArgsError, parse

    try:
        return parse(shlex.split(text))
    except (ValueError, ArgsError) as error:
        raise typer.BadParameter(f"--args {text!r}: {error}") from None


def read_limit(text: str) -> int | None:
    """A number of instructions, None for no limit. Raises typer.BadParameter."""
    if text.lower() == NO_LIMIT:
        return None
    try:
        limit = int(text)
    except ValueError:
        limit = 0
    if limit < 1:
        raise typer.BadParameter(f"--instruction-limit is a number of instructions or {NO_LIMIT!r}, not {text!r}")
    return limit
