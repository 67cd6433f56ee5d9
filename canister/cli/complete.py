"""What the shell may offer after Tab: canisters and identities. Whatever goes wrong, there is just no offer.

Typer picks those that begin with what was typed.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

SECONDS = 0.5  # a person waits for this


def _quietly(offer: Callable[[typer.Context], list[str]]) -> Callable[[typer.Context], list[str]]:
    def complete(ctx: typer.Context) -> list[str]:
        try:
            return offer(ctx)
        except Exception:  # a trace in the middle of a command line helps nobody
            return []

    return complete


@_quietly
def identity_names(ctx: typer.Context) -> list[str]:
    from canister.identities import BUILT_IN, IdentityStore

    return [*BUILT_IN, *IdentityStore().names()]


@_quietly
def canister_names(ctx: typer.Context) -> list[str]:
    """Of the server that the command line names so far."""
    import httpx

    from canister.cli.options import LOCAL, url_of
    from canister.client import is_loopback

    url = url_of(ctx.params.get("network") or LOCAL)
    response = httpx.get(f"{url}/canisters", timeout=SECONDS, trust_env=not is_loopback(url))
    return [str(row["name"]) for row in response.json()["canisters"]]
