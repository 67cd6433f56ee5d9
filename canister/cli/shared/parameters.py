"""Commands whose options are made from rows: the commands that serve."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer


def parameter(
    name: str,
    kind: Any,
    help: str,
    *flags: str,
    panel: str,
    metavar: str | None = None,
    least: int | None = None,
    default: Any = None,
    values: Sequence[str] = (),
) -> inspect.Parameter:
    """An option. flags: none: as it is named. least: the least number that is taken. values: those that a shell
    completes.
    """
    option = typer.Option(
        *flags,
        metavar=metavar,
        min=least,
        help=help,
        show_default=False,
        rich_help_panel=panel,
        autocompletion=(lambda: list(values)) if values else None,
    )
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def give(command: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> None:
    """Give a command, which takes any, its parameters, as typer reads them."""
    command.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
