"""`canister serve`: its options are made from the rows of `config`."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from canister.cli.shared import serving
from canister.cli.shared.help import default_text
from canister.config import ServeOption, rows


def serve(**given: Any) -> None:
    """Serve canisters over HTTP until SIGTERM or Ctrl-C.

    Every setting can also stand in the environment (CANISTER_PORT=…) or in canister.toml of the working folder. A flag
    wins over the environment, the environment over the file.
    """
    serving.start(**given)


def parameters() -> list[inspect.Parameter]:
    """One for each setting that can be a flag, which a table of tables cannot."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field, flag))
        for name, field in rows().items()
        for flag in field.metadata
        if isinstance(flag, ServeOption)
    ]


def _option(name: str, field: FieldInfo, flag: ServeOption) -> Any:
    kind = _kind(field.annotation)
    values = list(map(str, get_args(field.annotation))) if get_origin(field.annotation) is Literal else []
    long = f"--{name.replace('_', '-')}"
    flags = [f"{long}/--no-{name}"] if kind is bool else [*filter(None, [flag.short]), long]
    default = default_text(name)
    option = typer.Option(
        *flags,
        metavar=None if kind is bool else flag.metavar or "|".join(values) or ("SECONDS" if kind is float else "N"),
        help=(field.description or "") + (f" [default: {default}]" if default else ""),
        show_default=False,
        rich_help_panel=flag.panel,
        autocompletion=(lambda: values) if values else None,
    )
    return Annotated[kind | None, option]


def _kind(annotation: Any) -> Any:
    """The type that the command line reads; text where only the setting knows how to read it, as in `256M` or
    `none`.
    """
    if get_origin(annotation) in (Union, UnionType) and set(get_args(annotation)) == {Path, NoneType}:
        return Path
    return annotation if annotation in (bool, int, float, Path, list[str]) else str


serve.__signature__ = inspect.Signature(parameters())  # type: ignore[attr-defined]  # typer reads it
serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters()}
