"""How a process of `canister herd serve` comes to lead: at once, or after it has stood by for the one that does."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from canister.config import ServerSettings
from canister.defaults import UNIX
from canister.herd import shared_keys
from canister.herd.herd import Lead, holder
from canister.herd.journal import Journal, Leader
from canister.herd.settings import HerdSettings
from canister.herd.standby import Standby
from canister.server import passing
from canister.server.app import new_event_loop
from canister.server.sockets import url_of
from canister.system import data_dir
from canister.system.data_dir import LOCK, FolderLock
from canister.telemetry import logs

if TYPE_CHECKING:
    from pathlib import Path

ANY = ("0.0.0.0", "::")

log = logs.get_logger(__name__)


def lead_of(server: ServerSettings, herd: HerdSettings, listener: socket.socket) -> Lead | None:
    """Wait until this process leads; None: it was told to end before. Meanwhile requests are passed on to the leader.

    The data folder has the herd's keys then, and is taken only meanwhile.
    """
    logs.set_up_logs(server.log_level, server.log_format)
    folder = server.data_dir.expanduser().absolute()
    with ExitStack() as stack:
        FolderLock(folder / LOCK).wait_for_orphan()
        stack.callback(data_dir.take(folder).release)
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_event_loop))
        return runner.run(_lead_of(server, herd, listener, folder))


async def _lead_of(server: ServerSettings, herd: HerdSettings, listener: socket.socket, folder: Path) -> Lead | None:
    address = herd.address or address_of(listener)
    journal = await Journal.open(herd.journal_url(folder))
    try:
        epoch = await journal.lead(holder(), address)
        if epoch is None:
            epoch = await _stood_by(server, herd, listener, Standby(journal, holder(), address, folder))
        if epoch is not None:
            await asyncio.to_thread(shared_keys.take, folder, await journal.shared())
            return Lead(journal, epoch)
    except BaseException:
        await journal.close()
        raise
    await journal.close()
    return None


async def _stood_by(
    server: ServerSettings, herd: HerdSettings, listener: socket.socket, standby: Standby
) -> int | None:
    if herd.journal is not None and herd.objects is None:
        log.warning("objects lie in this door's own folder, where no other door finds them: give all --objects")

    def begun() -> None:
        print(f"listening on {url_of(listener)}", flush=True)

    def told(leader: Leader) -> None:
        print(f"  standing by: {leader.holder} leads, at {leader.address}", flush=True)

    try:
        return await passing.serve_until(
            standby.app, server, listener, standby.wait(told), begun=begun, ending=standby.leave
        )
    finally:
        await standby.close()


def address_of(listener: socket.socket) -> str:
    """Where others reach what listens there; by this machine's name, if it listens on all of its addresses."""
    url = url_of(listener)
    if url.startswith(UNIX) or listener.getsockname()[0] not in ANY:
        return url
    return f"http://{socket.gethostname()}:{listener.getsockname()[1]}"
