"""A group whose commands are imported when they run. Its help needs none of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from canister.cli.shared.app import App, Group

PACKAGE = "canister.cli"


@dataclass(frozen=True, slots=True)
class Entry:
    """place: module below canister.cli, and in it the command's function or the group's App.

    summary: the first sentence of its help, which a test compares; None: no help lists it. cls: class of the command,
    in the same module, if it has one of its own.
    """

    place: str
    summary: str | None = None
    cls: str | None = None

    def load(self, name: str) -> TyperCommand | TyperGroup:
        path, _, attribute = self.place.partition(":")
        module = importlib.import_module(f"{PACKAGE}.{path}")
        found = getattr(module, attribute)
        hidden = self.summary is None
        holder = App("", add_completion=False)
        holder.callback()(_nothing)
        if isinstance(found, App):
            holder.add_typer(found, name=name, hidden=hidden)
        else:
            options = {} if self.cls is None else {"cls": getattr(module, self.cls)}
            holder.command(name, hidden=hidden, **options)(found)
        group = get_command(holder)
        assert isinstance(group, TyperGroup)
        command = group.commands[name]
        assert isinstance(command, TyperCommand | TyperGroup)
        return command


def _nothing() -> None:
    pass


class LazyGroup(Group):
    """entries: its commands by name, in the order of its help."""

    entries: ClassVar[Mapping[str, Entry]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands(self.entries)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        shown = {name: entry.summary for name, entry in self.entries.items() if entry.summary is not None}
        limit = formatter.width - 6 - max(map(len, shown))
        rows = [(name, TyperCommand(name, help=text).get_short_help_str(limit)) for name, text in shown.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Commands(MutableMapping[str, Any]):
    """Commands by name, each made when first asked for."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = dict(entries)
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._entries[name].load(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._made or name in self._entries

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        self._entries.pop(name, None)
        self._made.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._entries, **self._made})

    def __len__(self) -> int:
        return len({**self._entries, **self._made})
