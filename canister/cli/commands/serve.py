"""`canister serve`: its options are made from the rows of `config`."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from canister.cli.shared import serving
from canister.cli.shared.help import default_text
from canister.cli.shared.parameters import give, parameter
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
        _parameter(name, field, flag)
        for name, field in rows().items()
        for flag in field.metadata
        if isinstance(flag, ServeOption)
    ]


def _parameter(name: str, field: FieldInfo, flag: ServeOption) -> inspect.Parameter:
    kind = _kind(field.annotation)
    values = list(map(str, get_args(field.annotation))) if get_origin(field.annotation) is Literal else []
    long = f"--{name.replace('_', '-')}"
    flags = [f"{long}/--no-{long.removeprefix('--')}"] if kind is bool else [*filter(None, [flag.short]), long]
    default = default_text(name)
    return parameter(
        name,
        kind | None,
        (field.description or "") + (f" [default: {default}]" if default else ""),
        *flags,
        panel=flag.panel,
        metavar=None if kind is bool else flag.metavar or "|".join(values) or ("SECONDS" if kind is float else "N"),
        values=values,
    )


def _kind(annotation: Any) -> Any:
    """The type that the command line reads; text where only the setting knows how to read it, as in `256M` or
    `none`.
    """
    if get_origin(annotation) in (Union, UnionType) and set(get_args(annotation)) == {Path, NoneType}:
        return Path
    return annotation if annotation in (bool, int, float, Path, list[str]) else str


give(serve, parameters())
