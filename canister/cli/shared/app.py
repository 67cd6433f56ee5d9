"""How commands show their help, and how they end when the reader of their output leaves."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

INTERRUPTED = 130  # the exit code that shells give a command ended by Ctrl-C
READER_LEFT = 141  # the exit code that shells give a command ended by SIGPIPE
OPTIONS = "Options"

F = TypeVar("F", bound=Callable[..., Any])


class Command(TyperCommand):
    """Its options stand in groups, by the `rich_help_panel` of each. A usage line names an argument as it is."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        # Typer writes {NAME} for one that must be given, which reads like a choice.
        return [piece.removeprefix("{").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def invoke(self, ctx: Any) -> Any:
        if not gc.isenabled():  # by __main__, while modules were loaded
            gc.freeze()
            gc.enable()
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None) or OPTIONS
                groups.setdefault("Arguments" if is_argument else panel, []).append(row)
        last = groups.pop(OPTIONS, []) if len(groups.keys() - {"Arguments"}) > 1 else []
        for title, rows in [*groups.items(), *([(OPTIONS, last)] if last else [])]:
            with formatter.section(title):
                formatter.write_dl(rows)


class Group(TyperGroup):
    """Ends as `head` expects when the reader of the output has left. Typer would end with 1, as after an error."""

    def make_context(self, *args: Any, **named: Any) -> Any:
        with _until_the_reader_leaves():
            return super().make_context(*args, **named)

    def invoke(self, ctx: Any) -> Any:
        with _until_the_reader_leaves():
            return super().invoke(ctx)


@contextmanager
def _until_the_reader_leaves() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise SystemExit(READER_LEFT) from None


class App(typer.Typer):
    """A group of commands with this help."""

    def __init__(self, help: str, **options: Any) -> None:
        super().__init__(help=help, no_args_is_help=True, rich_markup_mode=None, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        options.setdefault("cls", Command)
        return super().command(name, **options)
