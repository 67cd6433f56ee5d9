"""`canister chats`: the conversations that a server keeps for its caller under names."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared import tables
from canister.cli.shared.app import App
from canister.cli.shared.connection import LOCAL, connection
from canister.cli.shared.options import Anonymous, ApiKey, CanisterName, DataDir, Network
from canister.defaults import DEFAULT_CANISTER

if TYPE_CHECKING:
    from canister.api.rest_records import Chat, ChatEntry
    from canister.cli.talk.named import NamedChats

app = App("Chats that a server keeps for you: list, show, remove.")

HEAD = ("NAME", "LAST WRITTEN", "CACHE")

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `canister chats list` shows it.", show_default=False)]


@app.command("list")
def list_chats(
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """List your chats, the one written last first."""

    async def show(chats: NamedChats) -> None:
        table = tables.Pages(HEAD)
        async for found in chats.pages():
            if found:
                table.show([_row(chat) for chat in found])
        if not table.is_begun:
            print("no chat is kept here yet")

    _run(network, canister, api_key, anonymous, data_dir, show)


@app.command()
def show(
    name: Name,
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """Show what was said in a chat."""

    async def tell(chats: NamedChats) -> None:
        print(_transcript(await chats.get(name)))

    _run(network, canister, api_key, anonymous, data_dir, tell)


@app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Chats to remove.", show_default=False)],
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """Remove chats, with their prompt caches."""

    async def forget(chats: NamedChats) -> None:
        for name in names:
            await chats.remove(name)
            print(f"removed {name}")

    _run(network, canister, api_key, anonymous, data_dir, forget)


def _run(
    network: str,
    canister: str,
    api_key: str | None,
    anonymous: bool,
    data_dir: Path | None,
    action: Callable[[NamedChats], Awaitable[None]],
) -> None:
    from canister.cli.shared.hints import told_who
    from canister.cli.talk.named import NamedChats
    from canister.client.rest import Canister

    server = connection(network, api_key, anonymous, data_dir)

    async def run() -> None:
        async with Canister(server.url, canister, server.api_key) as client, told_who(client, canister):
            await action(NamedChats(client))

    asyncio.run(run())


def _transcript(chat: Chat) -> str:
    """Questions begin with `> `, as they were typed."""
    marks = {"user": "> ", "assistant": ""}
    said = (f"{marks.get(message.role, f'[{message.role}] ')}{_text(message.content)}" for message in chat.messages)
    return "\n\n".join(said)


def _text(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(getattr(part, "text", "")) for part in content)
    return str(content or "").strip()


def _row(chat: ChatEntry) -> tuple[str, str, str]:
    written = dt.datetime.fromtimestamp(chat.modified_ns / 1e9).astimezone()
    return chat.name, f"{written:%Y-%m-%d %H:%M}", _size(chat.cache_bytes)


def _size(n_bytes: int) -> str:
    """The size of the state kept with a chat. Without a state it is computed again when the chat continues."""
    if n_bytes == 0:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.4g} {unit}"
        n_bytes //= 1024
    return f"{n_bytes} GiB"
