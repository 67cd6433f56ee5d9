"""A server with the doors of AO: what stands behind them is opened with the host, and closed before it.

A supervisor starts this module in place of the server's own process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from canister.ao.storage.archive import Archive
from canister.ao.storage.uploads import Uploads
from canister.herd.objects.opening import open_objects
from canister.runtime.host import Host
from canister.server import process
from canister.server.app import Front, alone
from canister.server.doors.ao import routes

FOLDER = "ao"  # in the data folder


@asynccontextmanager
async def opened(host: Host, url: str) -> AsyncIterator[Front]:
    """url: at which clients find this server."""
    folder = host.data_dir / FOLDER
    async with alone(host, url) as front:
        archive = await Archive.open(await open_objects(str(folder / "objects")), host.settings.ao_storage)
        uploads = Uploads(archive)
        await uploads.clean()
        try:
            yield Front(front.behind, routes.routes(archive, uploads))
        finally:
            await uploads.close()


if __name__ == "__main__":
    process.main(opened)
