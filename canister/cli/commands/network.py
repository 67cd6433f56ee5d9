"""`canister network status`: what an IC client must know about a server."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from canister.cli.commands.call import IgnoredHidden
from canister.cli.shared.app import App
from canister.cli.shared.connection import LOCAL, url_of
from canister.cli.shared.options import Environment, Network

app = App("The server, as an IC network.")


@app.command()
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="local|URL", help="The same as --network.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    network: Network = LOCAL,
    environment: Environment = None,
    project_root_override: IgnoredHidden = None,
) -> None:
    """Show the URL, the root key and the state of a server. The key is the server's own word; nobody vouches for it."""
    url = url_of(name or network)
    found = asyncio.run(_status(url))
    root_key = found.get("root_key")
    shown = {
        "managed": False,
        "api_url": url,
        "gateway_url": url,
        "root_key": root_key.hex() if isinstance(root_key, bytes) else "",
        "impl_version": str(found.get("impl_version", "")),
        "replica_health_status": str(found.get("replica_health_status", "")),
    }
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    print(f"Api Url: {url}\nGateway Url: {url}\nRoot Key: {shown['root_key']}")
    print(f"Version: {shown['impl_version']}\nHealth: {shown['replica_health_status']}")


async def _status(url: str) -> dict[Any, Any]:
    from canister.client.agent import Agent

    async with Agent(url) as agent:
        return await agent.status()
