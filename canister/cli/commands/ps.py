"""`canister ps`: the calls that run on a server at the moment, and their callers."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from canister.cli.shared import tables
from canister.cli.shared.complete import canister_names
from canister.cli.shared.connection import LOCAL, Connection, connection
from canister.cli.shared.options import ApiKey, DataDir, Network

HEAD = ("CANISTER", "CALLER", "METHOD", "SECONDS", "PHASE", "PROMPT", "ANSWER", "TOK/S")
CALLER_COLUMN = 1
NUMBERS = (3, 5, 6, 7)
NO_NUMBER = "–"


def ps(
    canister: Annotated[
        str | None,
        typer.Argument(
            metavar="CANISTER",
            help="Name or id of the canister. [default: all of the server]",
            show_default=False,
            autocompletion=canister_names,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    network: Network = LOCAL,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Show who runs what: calls, phase, tokens per second.

    For controllers. Tokens are those that a call has decoded so far. The rate is that of the whole call, including the
    time that it waited for a slot.
    """
    server = connection(network, api_key, False, data_dir)
    found = asyncio.run(_ask(server, canister))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [_row(name, call) for name, calls in found.items() for call in calls["running"]]
    rows += [
        (name, queue["caller"], f"{queue['calls']} calls", NO_NUMBER, "wait their turn", *[NO_NUMBER] * 3)
        for name, calls in found.items()
        for queue in calls["waiting"]
    ]
    tables.show(HEAD, rows, shorten=CALLER_COLUMN, right=NUMBERS)


def _row(canister: str, call: dict[str, Any]) -> tuple[str, ...]:
    prompt = answer = rate = NO_NUMBER
    if "prompt_tokens" in call:
        prompt = f"{call['prompt_tokens']:,}/{call['prompt_tokens_wanted']:,}"
        answer = f"{call['generated_tokens']:,}"
        rate = f"{call['tokens_per_second']:,.1f}"
    seconds = f"{call['seconds']:,.1f}"
    return canister, call["caller"], call["method"], seconds, call["phase"], prompt, answer, rate


async def _ask(server: Connection, canister: str | None) -> dict[str, Any]:
    from canister.cli.shared.hints import told_who
    from canister.client.agent import Agent
    from canister.client.rest import Canister

    async with Agent(server.url) as agent:
        names = [canister] if canister is not None else list(await agent.canister_ids())
    found = {}
    for name in names:
        async with Canister(server.url, name, server.api_key) as client, told_who(client, name):
            found[name] = await client.running_calls()
    return found
