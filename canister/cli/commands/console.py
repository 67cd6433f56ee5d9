"""`canister console`: the web console of a server, opened in a browser that is signed in by a code."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared.connection import LOCAL, Connection, connection, signer, url_of
from canister.cli.shared.options import ApiKey, DataDir, IdentityName, Network

if TYPE_CHECKING:
    from canister.ic.cbor import Encodable
    from canister.ic.identity import Identity


def console(
    shows_link: Annotated[bool, typer.Option("--print", help="Print the link, and open no browser.")] = False,
    network: Network = LOCAL,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    identity: IdentityName = None,
) -> None:
    """Open the web console in a browser, signed in.

    The link has a code that counts once, for ten minutes. The browser acts as the caller whose API key made it, or as
    the identity of --identity, and stays signed in for eight hours.
    """
    if identity is not None:
        url = url_of(network)
        _show(url, asyncio.run(_link_of(url, signer(url, data_dir, identity))), shows_link)
        return
    server = connection(network, api_key, False, data_dir)
    if server.api_key is None:
        raise typer.BadParameter(
            f"no API key is known for {server.url}: give one with --api-key or CANISTER_API_KEY, or name the server's "
            "data folder with --data-dir"
        )
    _show(server.url, asyncio.run(_link(server)), shows_link)


def _show(url: str, link: str, shows_link: bool) -> None:
    if shows_link or not _has_screen() or not _opened(link):
        print(link)
    else:
        print(f"opened {url} in a browser; --print shows the link instead", file=sys.stderr)


async def _link(server: Connection) -> str:
    from canister.client.rest import Canister
    from canister.defaults import DEFAULT_CANISTER

    async with Canister(server.url, DEFAULT_CANISTER, server.api_key) as client:
        return f"{server.url}/#code={await client.sign_in_code()}"


async def _link_of(url: str, signer: Identity | None) -> str:
    """The identity signs one message in, and its key makes the code; the browser gets a key of its own."""
    import secrets
    import time

    from canister.client.rest import Canister
    from canister.defaults import DEFAULT_CANISTER
    from canister.ic import envelope, principal

    if signer is None:
        raise typer.BadParameter("the anonymous identity cannot sign a browser in")
    async with Canister(url, DEFAULT_CANISTER, None) as client:
        content: dict[str, Encodable] = {
            "request_type": "call",
            "nonce": secrets.token_bytes(32),
            "ingress_expiry": time.time_ns() + 240 * 10**9,
            "canister_id": principal.from_text(await client.id()),
            "method_name": "console_session",
            "arg": b"",
        }
        key = await client.sign_in(envelope.seal(content, signer)[0])
    async with Canister(url, DEFAULT_CANISTER, key) as client:
        code = await client.sign_in_code()
        await client.sign_out()
    return f"{url}/#code={code}"


def _has_screen() -> bool:
    """Without one, the browser of a terminal would take the terminal, and show nothing of the console."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _opened(link: str) -> bool:
    import webbrowser

    return webbrowser.open(link)
