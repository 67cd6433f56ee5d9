"""A server that stops is not held up by clients who wait for a result; they ask again, whoever serves them then."""

from __future__ import annotations

import asyncio
import threading
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
from canister.server.doors.ao import delivery, routes

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from tests.ao.units.world import MODEL, Shelf, message, opened
from tests.traces import until_so

pytestmark = pytest.mark.anyio
SAYS = f"Handlers.add('Say', function(m) Llama.load('{MODEL}') Llama.setPrompt('a') print(Llama.run(2)) end)"


@pytest.mark.parametrize(
    "path", ["/cu/result/{id}?process-id={process}", "/{process}~process@1.0/compute/results={id}"]
)
async def test_who_waits_for_a_result_is_told_to_ask_again(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "WAIT_SECONDS", 1e6)
    shelf = Shelf()
    shelf.model.gate = threading.Event()
    async with running(Host(Settings(data_dir=tmp_path / "data"))) as host, opened(tmp_path, shelf) as driven:
        archive = await Archive.open(await FolderObjects.open(tmp_path / "objects"))
        network = routes.Network(driven.units, "http://localhost", {})
        app = app_for(dispatch.of_host(host), routes=routes.routes(archive, Uploads(archive), network))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            process = await driven.program(SAYS)
            place = await driven.units.send(message(process, "Say"))
            asked = asyncio.create_task(client.get(path.format(id=place.message, process=process)))

            async def waits() -> bool | None:
                return process in driven.units._news or None

            await until_so(waits)
            host.is_draining = True
            assert (await asked).status_code == 202
        shelf.model.gate.set()
        assert (await driven.done(place)).result.output == b"bc"
    assert not driven.units._news  # nothing stays of who waited
