"""`canister herd serve`: the door of a herd, by the options of `canister serve` and its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from threading import Event
from typing import TYPE_CHECKING, Any

from canister.cli.commands.herd.money import JOURNAL
from canister.cli.commands.serve import parameters as serve_parameters
from canister.cli.shared.parameters import give, parameter

if TYPE_CHECKING:
    from canister.config import Settings
    from canister.herd.herd import Lead
    from canister.herd.launch.launcher import Launcher
    from canister.herd.settings import HerdSettings
    from canister.runtime.host import Host
    from canister.server.app import Front

HERD = "Herd"


def serve(**given: Any) -> None:
    """Serve canisters by several workers, until SIGTERM or Ctrl-C.

    This process is the door: it holds the queue, gives calls to workers and keeps their ends in the journal. While
    another process leads on the same journal, it passes requests on to that one, and leads when that one ends. All
    options of `canister serve` count for it or for each worker.
    """
    from canister.cli.commands.herd import standby
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
        while (lead := standby.lead_of(server, herd, listener)) is not None:
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
            proxied = Proxy(leading, openai.broken).routes([*openai.routes(), *conversations.worker_routes()])
            yield Front(HerdDispatcher(leading, dispatch.of_host(host)), [*HerdDoor(leading).routes(), *proxied])

    return opened


def _parameters() -> list[inspect.Parameter]:
    return [
        parameter(
            "workers",
            int,
            "Workers, on this machine or by --ray. [default: 2]",
            metavar="N",
            least=0,
            default=2,
            panel=HERD,
        ),
        parameter(
            "most_workers",
            int | None,
            "Start workers up to N while work waits for seconds. [default: as many as --workers]",
            metavar="N",
            least=1,
            panel=HERD,
        ),
        parameter(
            "ray",
            str | None,
            "Head of the cluster on whose machines workers run; see `canister herd machine`.",
            metavar="HOST:PORT",
            panel=HERD,
        ),
        parameter(
            "needs",
            list[str] | None,
            "What a worker takes of its machine: CPU=4, GPU=1, memory=BYTES, NAME=N; repeatable.",
            metavar="NAME=N",
            panel=HERD,
        ),
        parameter("journal", str | None, JOURNAL, metavar="URL", panel=HERD),
        parameter(
            "address",
            str | None,
            "Where the herd's other doors reach this one. [default: host and port that it listens on]",
            metavar="URL",
            panel=HERD,
        ),
        parameter(
            "objects",
            str | None,
            "Where large arguments and KV rows lie. [default: objects in the data folder]",
            metavar="DIR|s3://…",
            panel=HERD,
        ),
        parameter(
            "store_rows",
            bool | None,
            "Keep KV rows of chats in the objects, for when their worker is lost. [default: in a bucket]",
            "--store-rows/--no-store-rows",
            panel=HERD,
        ),
        *serve_parameters(),
    ]


give(serve, _parameters())
