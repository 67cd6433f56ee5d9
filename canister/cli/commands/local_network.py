"""`canister start`, `stop`, `ping`: the server of this machine, in the words of `dfx start` and `icp network start`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canister.cli.shared.connection import LOCAL, url_of
from canister.cli.shared.options import DataDir, Environment, Network
from canister.cli.shared.settings import data_folder, load_settings
from canister.client.local_server import GREETING, START_SECONDS

if TYPE_CHECKING:
    from canister.system.data_dir import FolderLock

LOG = "serve.log"  # in the data folder: the output of a server started in the background
STOP_SECONDS = 60.0  # beyond the time that running calls get
_POLL_SECONDS = 0.05

Background = Annotated[
    bool, typer.Option("--background", "-d", help="Do not wait for its end; what it prints goes to serve.log.")
]
Clean = Annotated[bool, typer.Option("--clean", help="Accepted; nothing is ever deleted here.")]
Address = Annotated[
    str | None, typer.Option("--host", metavar="ADDRESS[:PORT]", help="Where to listen.", show_default=False)
]
OfNoUse = Annotated[str | None, typer.Option(hidden=True)]
NoUse = Annotated[bool, typer.Option("--pocketic", "--enable-bitcoin", "--force", "--use-old-metering", hidden=True)]
Place = Annotated[str | None, typer.Argument(metavar="local|URL", help="The same as --network.", show_default=False)]


def start(
    name: Annotated[str | None, typer.Argument(metavar="local", show_default=False)] = None,
    background: Background = False,
    clean: Clean = False,
    host: Address = None,
    data_dir: DataDir = None,
    domain: OfNoUse = None,
    artificial_delay: OfNoUse = None,
    network: Network = LOCAL,
    environment: Environment = None,
    project_root_override: OfNoUse = None,
    no_use: NoUse = False,
) -> None:
    """Start a server as `canister serve` does, if none runs.

    What dfx and icp call their local network.
    """
    _must_be_local(name or network)
    folder = data_folder(data_dir)
    if clean:
        print(f"canister: --clean deletes nothing here; all state is in {folder}", file=sys.stderr)
    if _lock(folder).is_held():
        print(f"a server runs on {folder} already", file=sys.stderr)
        return
    address, port = _split(host)
    if not background:
        from canister.cli.commands.serve import serve

        serve(host=address, port=port, data_dir=data_dir)
        return
    flags = [("--host", address), ("--port", port), ("--data-dir", folder)]
    url = _start_in_background(folder, [str(part) for flag in flags if flag[1] is not None for part in flag])
    print(f"a server listens on {url}; what it prints goes to {folder / LOG}; canister stop ends it", file=sys.stderr)


def stop(
    name: Annotated[str | None, typer.Argument(metavar="local", show_default=False)] = None,
    data_dir: DataDir = None,
    network: Network = LOCAL,
    environment: Environment = None,
    project_root_override: OfNoUse = None,
) -> None:
    """Stop the server of a data folder, as Ctrl-C does."""
    from canister.errors import CanisterError

    _must_be_local(name or network)
    folder = data_folder(data_dir)
    lock = _lock(folder)
    pid = lock.holder()
    if pid is None:
        print(f"no server runs on {folder}", file=sys.stderr)
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has ended by itself meanwhile
    except PermissionError:
        raise CanisterError(f"process {pid}, which serves {folder}, belongs to another user") from None
    end = time.monotonic() + load_settings(data_dir=data_dir).server.drain_seconds + STOP_SECONDS
    while lock.is_held():
        if time.monotonic() > end:
            raise CanisterError(f"process {pid}, which serves {folder}, was told to stop and has not ended yet")
        time.sleep(_POLL_SECONDS)
    print(f"stopped the server of {folder}", file=sys.stderr)


def ping(
    name: Place = None,
    wait_healthy: Annotated[bool, typer.Option("--wait-healthy", help="Wait until it answers.")] = False,
    network: Network = LOCAL,
    environment: Environment = None,
    project_root_override: OfNoUse = None,
) -> None:
    """Ask a server for its status, and print it as dfx does."""
    told = asyncio.run(_status(url_of(name or network), START_SECONDS if wait_healthy else 0.0))
    plain = {str(key): list(value) if isinstance(value, bytes) else value for key, value in told.items()}
    print(json.dumps(plain, indent=2))


async def _status(url: str, patience_seconds: float) -> dict[Any, Any]:
    from canister.client.agent import Agent
    from canister.client.errors import Unreachable

    end = time.monotonic() + patience_seconds
    async with Agent(url) as agent:
        while True:
            try:
                return await agent.status()
            except Unreachable:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(_POLL_SECONDS)


def _must_be_local(network: str) -> None:
    if network != LOCAL:
        url_of(network)
        raise typer.BadParameter(f"the server at {network} is started and stopped where it runs; here: local")


def _lock(folder: Path) -> FolderLock:
    from canister.system.data_dir import LOCK, FolderLock

    return FolderLock(folder / LOCK)


def _split(host: str | None) -> tuple[str | None, int | None]:
    """`127.0.0.1`, `127.0.0.1:8000`, `[::1]:8000` or `:8000`."""
    if host is None:
        return None, None
    address, colon, port = host.rpartition(":")
    if not colon or host.endswith("]") or (":" in address and not address.endswith("]")):
        return host.strip("[]"), None
    if not port.isdecimal():
        raise typer.BadParameter(f"--host is an address, or one with a port such as 127.0.0.1:8000, not {host!r}")
    return address.strip("[]") or None, int(port)


def _start_in_background(folder: Path, flags: list[str]) -> str:
    """Start a server that outlives us and wait until it listens. Returns its URL. Raises ServerFailed."""
    from canister.client.local_server import ServerFailed

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold keys
    path = folder / LOG
    with path.open("ab") as log:
        before = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "canister", "serve", *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + START_SECONDS
    while True:
        has_ended = process.poll() is not None  # asked first: a line written before the end is still seen
        lines = path.read_bytes()[before:].decode("utf-8", "replace").splitlines(keepends=True)
        for line in lines:
            if line.startswith(GREETING) and line.endswith("\n"):
                return line.removeprefix(GREETING).strip()
        if has_ended or time.monotonic() > end:
            what = f"ended with {process.returncode}" if has_ended else f"did not come up in {START_SECONDS:g} s"
            raise ServerFailed(f"canister serve {what}:\n{''.join(lines[-20:]).rstrip()}")
        time.sleep(_POLL_SECONDS)
