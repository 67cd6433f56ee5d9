"""`canister logs`: the last lines of a server's log, for the controllers of a canister.

They come from the management canister, as `dfx canister logs` asks for them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canister.cli.shared.complete import canister_names
from canister.cli.shared.connection import LOCAL, agent_for
from canister.cli.shared.options import DataDir, Environment, IdentityName, Network, RootKey
from canister.defaults import DEFAULT_CANISTER

if TYPE_CHECKING:
    from canister.api.management import LogLineRecord
    from canister.client.agent import Agent

POLL_SECONDS = 1.0
LARGEST_INDEX = 2**64 - 1


def logs(
    canister: Annotated[
        str,
        typer.Argument(metavar="CANISTER", help="Name or id of the canister.", autocompletion=canister_names),
    ] = DEFAULT_CANISTER,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines until Ctrl-C.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only the last N lines.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they were logged.")] = False,
    network: Network = LOCAL,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    environment: Environment = None,
    interval: Annotated[float, typer.Option(min=0.0, hidden=True)] = POLL_SECONDS,
    project_root_override: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Show the last lines of the log, and with -f the next ones.

    For the controllers of the canister. Who controls all canisters of the server sees lines about the server, too. The
    last 2000 lines of this run of the server are kept, 1 MB at most.
    """
    agent = agent_for(network, identity, data_dir, root_key)
    asyncio.run(_show(agent, canister, tail, interval if follow else None, as_json))


async def _show(agent: Agent, canister: str, tail: int | None, interval: float | None, as_json: bool) -> None:
    async with agent:
        id = await agent.id_of(canister)
        lines = await _fetch(agent, id, 0)
        for line in lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]:
            _print(line, as_json)
        if interval is not None:
            async for line in _next_lines(agent, id, lines[-1].idx + 1 if lines else 0, interval):
                _print(line, as_json)


async def _next_lines(agent: Agent, id: bytes, start: int, interval: float) -> AsyncIterator[LogLineRecord]:
    """New lines as they come. Waits for a server that goes away for a while."""
    from canister.client.errors import Unreachable

    is_away = False
    while True:
        await asyncio.sleep(interval)
        try:
            lines = await _fetch(agent, id, start)
        except Unreachable as error:
            if not is_away:
                print(f"canister: {error} Waiting for it.", file=sys.stderr, flush=True)
            is_away = True
            continue
        is_away = False
        for line in lines:
            start = line.idx + 1
            yield line


async def _fetch(agent: Agent, id: bytes, start: int) -> list[LogLineRecord]:
    from canister.api import codec, management
    from canister.client.agent import MANAGEMENT_ID
    from canister.ic import principal

    method = management.find_method("fetch_canister_logs", "query")
    arg = management.FetchLogsRecord(
        canister_id=principal.to_text(id),
        filter=management.LogFilter(by_idx=management.LogRange(start=start, end=LARGEST_INDEX)),
    )
    reply = await agent.query(MANAGEMENT_ID, method.name, codec.encode_args(method, arg), effective_id=id)
    found: list[LogLineRecord] = codec.decode_reply(method, reply).value.canister_log_records
    return found


def _print(line: LogLineRecord, as_json: bool) -> None:
    text = line.content.decode("utf-8", "replace")
    print(text if as_json else as_text(text), flush=True)


def as_text(line: str) -> str:
    """`2026-11-30T07:41:36Z info model loaded canister=llama_cpp n_ctx=1024`; a line that is no JSON stays as it is."""
    try:
        fields: dict[str, Any] = json.loads(line)
        head = f"{fields.pop('timestamp')[:19]}Z {fields.pop('level'):<8} {fields.pop('event')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    fields.pop("logger", None)
    trace = fields.pop("exception", None)
    rest = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    return head + (f"  {rest}" if rest else "") + ("" if trace is None else f"\n{trace}")
