"""Completion after Tab: names of what there is. If anything goes wrong, nothing is offered.

Typer picks the names that begin with what was typed.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

SECONDS = 0.5  # a person waits for this
MOST_FILES = 1_000
MOST_NAMES = 10_000


def _quietly(offer: Callable[[typer.Context], list[str]]) -> Callable[[typer.Context], list[str]]:
    def complete(ctx: typer.Context) -> list[str]:
        try:
            return offer(ctx)
        except Exception:  # a stack in the middle of a command line helps nobody
            return []

    return complete


@_quietly
def identity_names(ctx: typer.Context) -> list[str]:
    from canister.client.identities import BUILT_IN, IdentityStore

    return [*BUILT_IN, *IdentityStore().names()]


@_quietly
def canister_names(ctx: typer.Context) -> list[str]:
    """Of the server that the command line names so far."""
    from canister.cli.shared.connection import LOCAL, url_of
    from canister.client.http_library import open_client

    with open_client(url_of(ctx.params.get("network") or LOCAL), SECONDS) as client:
        response = client.get("/canisters")
    return [str(row["name"]) for row in response.json()["canisters"]]


@_quietly
def api_key_names(ctx: typer.Context) -> list[str]:
    """Of the data folder that the command line names so far."""
    from canister.cli.shared.settings import data_folder
    from canister.state.api_keys import open_keys
    from canister.system.data_dir import SERVER_DATABASE

    folder = data_folder(ctx.params.get("data_dir"))
    if not (folder / SERVER_DATABASE).is_file():
        return []
    with open_keys(folder) as keys:
        return [key.name for key in keys.list(n_most=MOST_NAMES)]


@_quietly
def canister_files(ctx: typer.Context) -> list[str]:
    """Files in the canister that the command line names so far, for callers who may list them."""
    import asyncio

    from canister.api.records import DirContentInputRecord
    from canister.cli.shared.connection import LOCAL, connection
    from canister.client.rest import Canister
    from canister.defaults import DEFAULT_CANISTER

    given = ctx.params
    server = connection(
        given.get("network") or LOCAL, given.get("api_key"), False, given.get("data_dir"), tells_whose_key=False
    )
    name = given.get("canister_id") or given.get("canister") or DEFAULT_CANISTER

    async def ask() -> list[str]:
        async with Canister(server.url, name, server.api_key, timeout_seconds=SECONDS) as client:
            found = await client.recursive_dir_content_query(DirContentInputRecord(dir=".", max_entries=MOST_FILES))
        return [entry.filename.removeprefix("./") for entry in found.value if entry.filetype == "file"]

    return asyncio.run(ask())
