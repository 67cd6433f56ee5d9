"""`canister console`: the web console of a server, opened in a browser that is signed in by a code."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

import typer

from canister.cli.shared.connection import LOCAL, Connection, connection
from canister.cli.shared.options import ApiKey, DataDir, Network


def console(
    shows_link: Annotated[bool, typer.Option("--print", help="Print the link, and open no browser.")] = False,
    network: Network = LOCAL,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Open the web console in a browser, signed in.

    The link has a code that counts once, for ten minutes. The browser acts as the caller whose API key made it, and
    stays signed in for eight hours.
    """
    server = connection(network, api_key, False, data_dir)
    if server.api_key is None:
        raise typer.BadParameter(
            f"no API key is known for {server.url}: give one with --api-key or CANISTER_API_KEY, or name the server's "
            "data folder with --data-dir"
        )
    link = asyncio.run(_link(server))
    if shows_link or not _has_screen() or not _opened(link):
        print(link)
    else:
        print(f"opened {server.url} in a browser; --print shows the link instead", file=sys.stderr)


async def _link(server: Connection) -> str:
    from canister.client.rest import Canister
    from canister.defaults import DEFAULT_CANISTER

    async with Canister(server.url, DEFAULT_CANISTER, server.api_key) as client:
        return f"{server.url}/#code={await client.sign_in_code()}"


def _has_screen() -> bool:
    """Without one, the browser of a terminal would take the terminal, and show nothing of the console."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _opened(link: str) -> bool:
    import webbrowser

    return webbrowser.open(link)
