"""`canister herd`: one canister on many workers; `serve` is its door, the others look at it and see to its money."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from canister.cli.commands.herd_machine import machine
from canister.cli.commands.serve import parameters as serve_parameters
from canister.cli.shared import tables
from canister.cli.shared.app import App
from canister.cli.shared.connection import LOCAL, Connection, connection
from canister.cli.shared.options import ApiKey, DataDir, Network
from canister.cli.shared.settings import data_folder

if TYPE_CHECKING:
    from canister.config import Settings
    from canister.herd.herd import Lead
    from canister.herd.journal import Journal
    from canister.herd.launch.launcher import Launcher
    from canister.herd.settings import HerdSettings
    from canister.runtime.host import Host
    from canister.server.app import Front

T = TypeVar("T")

herd_app = App("A herd: one canister on many workers, behind one door.")

ASK_SECONDS = 30.0
RESTART_SECONDS = 600.0  # of one worker
HERD = "Herd"
HEAD = ("WORKER", "PHASE", "JOBS", "DONE", "SECONDS", "SLOTS", "REV", "PID")

JournalUrl = Annotated[
    str | None,
    typer.Option(
        "--journal",
        metavar="URL",
        help="Journal of the herd: postgresql://…, or sqlite:///PATH. [default: herd.db in the data folder]",
        show_default=False,
        rich_help_panel=HERD,
    ),
]
Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Principal of a caller.", show_default=False)]
Amount = Annotated[
    str, typer.Argument(metavar="AMOUNT", help="With up to 12 decimals, such as 1.5.", show_default=False)
]
CanisterName = Annotated[
    str | None,
    typer.Option("--canister", metavar="NAME", help="Which canister. [default: the first]", show_default=False),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Name of this movement; a second one of that name does nothing.", show_default=False
    ),
]


def serve(**given: Any) -> None:
    """Serve canisters by several workers, until SIGTERM or Ctrl-C.

    This process is the door: it holds the queue, gives calls to workers and keeps their ends in the journal. While
    another process leads on the same journal, it passes requests on to that one, and leads when that one ends. All
    options of `canister serve` count for it or for each worker.
    """
    from canister.cli.commands import herd_standby
    from canister.cli.shared.settings import load_settings
    from canister.herd.launch import ray_machine
    from canister.herd.settings import HerdSettings
    from canister.server import app
    from canister.server.sockets import listening

    names = ("workers", "most_workers", "ray", "journal", "objects", "store_rows", "address")
    own = {name: given.pop(name) for name in names}
    own["needs"] = ray_machine.resources(given.pop("needs") or ())
    settings = load_settings(**{name: None if value == [] else value for name, value in given.items()})
    herd = HerdSettings(**own)
    # The door connects to databases and workers, and has no engine; so it is the workers that are confined.
    server = settings.server.model_copy(update={"confine": False, "model": None})
    with listening(server.listen, server.host, server.port) as listener:
        while (lead := herd_standby.lead_of(server, herd, listener)) is not None:
            is_lost = Event()
            opened = _opened(settings, herd, lead, is_lost)
            app.run(settings.model_copy(update={"server": server}), listener.dup(), opened=opened)
            if not is_lost.is_set():
                return


def _opened(
    settings: Settings, herd: HerdSettings, lead: Lead, is_lost: Event
) -> Callable[[Host, str], AbstractAsyncContextManager[Front]]:
    """What opens the herd behind the doors. is_lost: set when another process leads."""
    from contextlib import asynccontextmanager

    from canister import dispatch
    from canister.herd.dispatcher import HerdDispatcher
    from canister.herd.door import HerdDoor
    from canister.herd.herd import running
    from canister.herd.launch.local import LocalLauncher
    from canister.herd.launch.ray import RayCluster, RayLauncher
    from canister.herd.proxy import Proxy
    from canister.herd.settings import WORKERS
    from canister.server.app import Front
    from canister.server.doors import conversations
    from canister.server.doors.openai import routes as openai

    @asynccontextmanager
    async def opened(host: Host, url: str) -> Any:
        def deposed() -> None:
            is_lost.set()
            host.must_end = True

        launcher: Launcher = LocalLauncher(host.data_dir / WORKERS)
        if herd.ray is not None:
            launcher = RayLauncher(RayCluster(herd.ray))
        async with running(host, settings, herd, launcher, lead, deposed=deposed) as leading:
            proxied = Proxy(leading).routes([*openai.routes(), *conversations.worker_routes()])
            yield Front(HerdDispatcher(leading, dispatch.of_host(host)), [*HerdDoor(leading).routes(), *proxied])

    return opened


def _serve_parameters() -> list[inspect.Parameter]:
    own = {
        "workers": Annotated[
            int, typer.Option(min=0, metavar="N", help="Workers, on this machine or by --ray.", rich_help_panel=HERD)
        ],
        "most_workers": Annotated[
            int | None,
            typer.Option(
                min=1,
                metavar="N",
                help="Start workers up to N while work waits for seconds. [default: as many as --workers]",
                show_default=False,
                rich_help_panel=HERD,
            ),
        ],
        "ray": Annotated[
            str | None,
            typer.Option(
                metavar="HOST:PORT",
                help="Head of the cluster on whose machines workers run; see `canister herd machine`.",
                show_default=False,
                rich_help_panel=HERD,
            ),
        ],
        "needs": Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=N",
                help="What a worker takes of its machine: CPU=4, GPU=1, memory=BYTES, NAME=N; repeatable.",
                show_default=False,
                rich_help_panel=HERD,
            ),
        ],
        "journal": JournalUrl,
        "address": Annotated[
            str | None,
            typer.Option(
                metavar="URL",
                help="Where the herd's other doors reach this one. [default: host and port that it listens on]",
                show_default=False,
                rich_help_panel=HERD,
            ),
        ],
        "objects": Annotated[
            str | None,
            typer.Option(
                metavar="DIR|s3://…",
                help="Where large arguments and KV rows lie. [default: objects in the data folder]",
                show_default=False,
                rich_help_panel=HERD,
            ),
        ],
        "store_rows": Annotated[
            bool | None,
            typer.Option(
                "--store-rows/--no-store-rows",
                help="Keep KV rows of chats in the objects, for when their worker is lost. [default: in a bucket]",
                show_default=False,
                rich_help_panel=HERD,
            ),
        ],
    }
    defaults = {"workers": 2}
    mine = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=kind)
        for name, kind in own.items()
    ]
    return [*mine, *serve_parameters()]


serve.__signature__ = inspect.Signature(_serve_parameters())  # type: ignore[attr-defined]  # typer reads it
serve.__annotations__ = {parameter.name: parameter.annotation for parameter in _serve_parameters()}
herd_app.command()(serve)
herd_app.command()(machine)


@herd_app.command()
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


@herd_app.command()
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


@herd_app.command()
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


@herd_app.command()
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


@herd_app.command()
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


@herd_app.command()
def mint(
    account: Account, amount: Amount, key: Key = None, journal: JournalUrl = None, data_dir: DataDir = None
) -> None:
    """Make new money for an account. Works on the journal itself, also while the herd runs."""
    from canister.herd.fees import format_amount, parse_amount

    units = parse_amount(amount)
    is_new = _with_journal(journal, data_dir, lambda opened: opened.mint(account, units, key=_key(key)))
    print(f"{format_amount(units)} for {account}" if is_new else f"{key} was done before; nothing has changed")


@herd_app.command()
def transfer(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Account that pays.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TO", help="Account that gets it.", show_default=False)],
    amount: Amount,
    key: Key = None,
    journal: JournalUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Move money from one account to another. Works on the journal itself, also while the herd runs."""
    from canister.herd.fees import format_amount, parse_amount

    units = parse_amount(amount)
    is_new = _with_journal(journal, data_dir, lambda opened: opened.transfer(source, target, units, key=_key(key)))
    print(
        f"{format_amount(units)} from {source} to {target}" if is_new else f"{key} was done before; nothing has changed"
    )


@herd_app.command()
def balance(
    account: Annotated[
        str | None,
        typer.Argument(metavar="ACCOUNT", help="Principal of a caller. [default: all accounts]", show_default=False),
    ] = None,
    journal: JournalUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Show what an account has, and what is held for its jobs."""
    from canister.herd.fees import format_amount

    found = _with_journal(journal, data_dir, lambda opened: opened.balances())
    if account is not None:
        found = {name: balance for name, balance in found.items() if name == account}
    rows = [(name, format_amount(one.free), format_amount(one.held)) for name, one in sorted(found.items())]
    if account is not None and not rows:
        rows = [(account, "0", "0")]
    tables.show(("ACCOUNT", "FREE", "HELD"), rows, shorten=0, right=(1, 2))


def _with_journal(url: str | None, data_dir: Path | None, work: Callable[[Journal], Awaitable[T]]) -> T:
    from canister.errors import NotFound
    from canister.herd.journal import Journal
    from canister.system.data_dir import HERD_DATABASE

    async def run() -> T:
        folder = data_folder(data_dir)
        if url is None and not (folder / HERD_DATABASE).exists():
            raise NotFound(
                f"there is no {folder / HERD_DATABASE}: start the herd first, or name its journal with --journal"
            )
        opened = await Journal.open(url or f"sqlite:///{folder / HERD_DATABASE}")
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(run())


def _key(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    first = next(iter(worker["canisters"]), {"slots": 0, "rev": 0})
    seconds = f"{worker['call_seconds']:.2f}"
    numbers = map(str, (len(worker["jobs"]), worker["done"], seconds, first["slots"], first["rev"], worker["pid"]))
    return (worker["id"], worker["phase"], *numbers)


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
