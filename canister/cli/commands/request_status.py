"""`canister call --async` and `canister request-status`: a call without waiting, and its answer later."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from canister.cli.shared.complete import canister_names
from canister.cli.shared.connection import LOCAL, agent_for
from canister.cli.shared.options import DataDir, Environment, IdentityName, Network, RootKey

_REQUEST_ID_BYTES = 32


def request_status(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="What `call --async` printed.")],
    canister: Annotated[
        str, typer.Argument(metavar="CANISTER", help="Name or id of the canister.", autocompletion=canister_names)
    ],
    network: Network = LOCAL,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    environment: Environment = None,
    output: Annotated[str | None, typer.Option("--output", hidden=True)] = None,
) -> None:
    """Wait for the answer to an earlier `call --async`, and print its bytes in hex."""
    from canister.client.errors import Rejected

    id = _request_id(request_id)

    async def wait() -> bytes:
        async with agent_for(network, identity, data_dir, root_key) as agent:
            return await agent.reply_to(id, await agent.id_of(canister))

    try:
        print(asyncio.run(wait()).hex())
    except Rejected as error:
        from canister.cli.shared.message import print_reject

        raise typer.Exit(print_reject(error, is_json=False)) from None


def _request_id(text: str) -> bytes:
    try:
        id = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        id = b""
    if len(id) != _REQUEST_ID_BYTES:
        raise typer.BadParameter(f"{text!r} is no id of a request: 64 hex digits, as `call --async` prints them")
    return id
