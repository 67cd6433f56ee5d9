"""`canister herd status`, `drain`, `restart`, `publish` and `unpublish`: asked of the door of a herd that runs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from canister.cli.shared import tables
from canister.cli.shared.connection import LOCAL, Connection, connection
from canister.cli.shared.options import ApiKey, DataDir, Network

ASK_SECONDS = 30.0
RESTART_SECONDS = 600.0  # of one worker
HEAD = ("WORKER", "PHASE", "JOBS", "ANSWERS", "DONE", "SECONDS", "SLOTS", "REV", "PID")

CanisterName = Annotated[
    str | None,
    typer.Option("--canister", metavar="NAME", help="Which canister. [default: the first]", show_default=False),
]


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    network: Network = LOCAL,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Show the workers, what each does, and the queue by price. For controllers."""
    found = asyncio.run(_ask(connection(network, api_key, False, data_dir), "GET", "/herd/status"))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    tables.show(HEAD, [_row(worker) for worker in found["workers"]], right=(2, 3, 4, 5, 6, 7))
    print(f"{found['leader']['holder']} leads, at {found['leader']['address']}")
    for door in found["standing_by"]:
        print(f"{door['holder']} stands by, at {door['address']}")
    jobs = found["jobs"]
    print(f"jobs: {jobs['running']} running, {jobs['waiting']} waiting")
    for level in found["queue"]:
        print(f"  at {level['multiplier']:g}: {level['jobs']}")


def drain(
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Such as w1.", show_default=False)],
    network: Network = LOCAL,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Give a worker no more jobs; what it runs is finished. For controllers."""
    server = connection(network, api_key, False, data_dir)
    found = asyncio.run(_ask(server, "POST", "/herd/drain", {"worker": worker}))
    print(f"{worker} is {found['phase']}, with {len(found['jobs'])} jobs")


def restart(
    workers: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORKER…", help="Such as w1. [default: all, one after the other]", show_default=False),
    ] = None,
    network: Network = LOCAL,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Start workers anew, one after the other. For controllers.

    As an upgrade needs it: a worker gets no more jobs and ends those that it has, while others carry the herd; then it
    is started again, and the next one follows when it is ready.
    """
    server = connection(network, api_key, False, data_dir)

    async def run() -> None:
        named = workers or [worker["id"] for worker in (await _ask(server, "GET", "/herd/status"))["workers"]]
        for worker in named:
            found = await _ask(server, "POST", "/herd/restart", {"worker": worker}, seconds=RESTART_SECONDS)
            print(f"{worker} is {found['phase']}, version {found['version']}", flush=True)

    asyncio.run(run())


def publish(
    prompt_cache: Annotated[
        str, typer.Argument(metavar="CACHE", help="Name of a prompt cache of yours.", show_default=False)
    ],
    canister: CanisterName = None,
    network: Network = LOCAL,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Share a prompt cache's rows with all callers. For admins.

    Every prompt that begins as the prompt cache does starts from its rows, at each worker. Nobody is told what it says;
    who has the same prompt gets an answer sooner.
    """
    server = connection(network, api_key, False, data_dir)
    body = {"prompt_cache": prompt_cache} | ({} if canister is None else {"canister": canister})
    found = asyncio.run(_ask(server, "POST", "/herd/publish", body))
    print(f"{found['head']}: {found['tokens']} tokens")


def unpublish(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="As `publish` printed it.", show_default=False)],
    canister: CanisterName = None,
    network: Network = LOCAL,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Let a published prompt cache be none any more. For admins."""
    server = connection(network, api_key, False, data_dir)
    body = {"head": head} | ({} if canister is None else {"canister": canister})
    asyncio.run(_ask(server, "POST", "/herd/unpublish", body))
    print(f"{head} is not published any more")


def _row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    first = next(iter(worker["canisters"]), {"slots": 0, "rev": 0})
    seconds = f"{worker['call_seconds']:.2f}"
    counts = (len(worker["jobs"]), worker.get("answers", 0), worker["done"])
    return (worker["id"], worker["phase"], *map(str, (*counts, seconds, first["slots"], first["rev"], worker["pid"])))


async def _ask(server: Connection, verb: str, path: str, body: object = None, *, seconds: float = ASK_SECONDS) -> Any:
    from canister.client.http_library import httpx

    headers = {} if server.api_key is None else {"Authorization": f"Bearer {server.api_key}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=seconds) as client:
        try:
            response = await client.request(verb, path, json=body)
        except httpx.TransportError as error:
            print(f"canister: {server.url} does not answer: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
    found = response.json()
    if response.status_code >= 400:
        print(f"canister: {found.get('reject_message', found)}", file=sys.stderr)
        raise typer.Exit(1)
    return found
