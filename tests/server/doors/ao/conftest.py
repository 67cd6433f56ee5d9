"""The real app with the doors of AO over a folder, without a socket between; one for the tests of a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from canister import dispatch
from canister.ao.storage.archive import Archive
from canister.ao.storage.uploads import Uploads
from canister.config import Settings
from canister.herd.objects.folder import FolderObjects
from canister.runtime.host import Host
from canister.server.app import app_for, running
from canister.server.doors.ao import routes


@dataclass
class Storage:
    """folder: of the objects."""

    folder: Path
    archive: Archive
    client: httpx.AsyncClient

    async def opened_again(self) -> Archive:
        """What a restart would find."""
        return await Archive.open(await FolderObjects.open(self.folder))


@pytest.fixture(scope="module")
async def storage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Storage]:
    folder = tmp_path_factory.mktemp("ao")
    async with running(Host(Settings(data_dir=folder / "data"))) as host:
        archive = await Archive.open(await FolderObjects.open(folder / "objects"))
        uploads = Uploads(archive)
        app = app_for(dispatch.of_host(host), routes=routes.routes(archive, uploads))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Storage(folder / "objects", archive, client)
        await uploads.close()
