"""A server with the doors of AO: what stands behind them is opened with the host, and closed before it.

A supervisor starts this module in place of the server's own process.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from canister.errors import BadRequest, NotFound
from canister.server import process
from canister.system import atomic_file
from canister.system.data_dir import AO, AO_MODELS, AO_NODE, OBJECTS

if TYPE_CHECKING:
    from canister.ao.processes.messages import Incoming
    from canister.ao.signing.wallets import ArweaveWallet
    from canister.ao.storage.archive import Archive
    from canister.config import ServerSettings, Settings
    from canister.runtime.host import Host
    from canister.server.app import Front

MODULES = {
    "ISShJH1ij-hPPt9St5UFFr_8Ys3Kj5cyg7zrMGt7H9s": "aos",
    "QkFLfRXw8MOeHMNoHK0tyno17wbSxCecATohFMaULKM": "aos-llama",
}
SHIPPED_ID = "tiny"
KNOWN_MODELS = (  # ids in programs of others
    "ISrbGzQot05rs_HKC08O_SmkipYQnqgB1yC3mjZZeEo",
    "Pr2YVrxd7VwNdg6ekC0NXWNKXxJbfTlHhhlrKbAd1dA",
)
_MODULE_TAGS = (
    (b"Data-Protocol", b"ao"),
    (b"Variant", b"ao.TN.1"),
    (b"Type", b"Module"),
    (b"Module-Format", b"lua"),
    (b"Input-Encoding", b"JSON-1"),
    (b"Output-Encoding", b"JSON-1"),
)
MAX_ITEM_BYTES = 64 << 20  # of what programs read


@asynccontextmanager
async def opened(host: Host, url: str) -> AsyncIterator[Front]:
    """url: at which clients find this server. Raises BadRequest where a part of AO is not installed."""
    if importlib.util.find_spec("lupa") is None:
        raise BadRequest("AO needs Lua, which is not installed: pip install 'llama-canister[ao]'")
    # What these import starts threads, and a server is confined before it has any.
    from canister.ao.storage.archive import Archive
    from canister.ao.storage.uploads import Uploads
    from canister.ao.units import HERDER, TOKEN, Units
    from canister.ao.units import Settings as UnitSettings
    from canister.cli.shared.stored_models import StoredModels
    from canister.dispatch import ao_models
    from canister.herd.objects.opening import open_objects
    from canister.server.app import Front, alone
    from canister.server.doors.ao.inference import Inference
    from canister.server.doors.ao.routes import Network, routes

    folder = host.data_dir / AO
    settings = host.settings
    async with alone(host, url) as front, _preloading(host):
        archive = await Archive.open(await open_objects(str(folder / OBJECTS)), settings.ao_storage)
        wallet = await asyncio.to_thread(_node_wallet, folder / AO_NODE)
        for module, name in MODULES.items():
            archive.index.add_known(module, wallet.address, (*_MODULE_TAGS, (b"Name", name.encode())))
        uploads = Uploads(archive)
        await uploads.clean()
        stored = StoredModels(host, archive, folder / AO_MODELS, settings.ao_stored_models)
        units = await Units.open(
            UnitSettings(
                folder,
                wallet.address,
                models=ao_models.of_host(host, _canisters(settings), host.identity.principal, stored.find),
                items=StoredItems(archive),
                packages=settings.ao_packages,
                n_workers=settings.ao_workers,
                model=SHIPPED_ID,
                lease_ms=round(settings.ao_lease * 1000),
                most_bytes=settings.ao_storage,
            )
        )
        named = {"token": TOKEN, "herder": HERDER, "module": next(iter(MODULES))}
        try:
            network = Network(units, url, named, settings.ao_owners)
            yield Front(front.behind, routes(archive, uploads, network), Inference)
        finally:
            await units.aclose()
            await stored.close()
            await uploads.close()


def with_models(settings: Settings) -> Settings:
    """A canister more for each model of AO, since a canister has one model."""
    server = settings.server
    names = [*server.canister, *(_canister_of(id) for id, _ in _models(server))]
    return settings.model_copy(update={"server": server.model_copy(update={"canister": list(dict.fromkeys(names))})})


def _models(server: ServerSettings) -> list[tuple[str, Path]]:
    """Ids and files of the operator's."""
    found = [model.partition("=") for model in server.ao_model]
    return [(id, Path(file)) for id, _, file in found]


def _canister_of(id: str) -> str:
    """The name of the canister for a model of the operator's; ids may be longer than names, and have dots."""
    return f"ao_{hashlib.sha256(id.encode()).hexdigest()[:12]}"


def _canisters(server: ServerSettings) -> dict[str, str]:
    """Names of canisters by the ids of their models. Ids that clients know are the shipped model's until the operator
    gives them another one."""
    known = dict.fromkeys((SHIPPED_ID, *KNOWN_MODELS), server.canister[0])
    return known | {id: _canister_of(id) for id, _ in _models(server)}


@asynccontextmanager
async def _preloading(host: Host) -> AsyncIterator[None]:
    """Models are put into their canisters meanwhile."""
    from canister.model_file.shipped import shipped_model
    from canister.server import preload

    tasks = []
    shipped = shipped_model()
    if host.settings.model is None and shipped is not None:
        tasks.append(preload.begin(host, shipped, keeps_other=True))
    for id, file in _models(host.settings):
        preload.check(file)
        tasks.append(preload.begin(host, file, host.find(_canister_of(id))))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class StoredItems:
    """What programs find in the archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def get(self, id: str) -> Incoming | None:
        """None: it is not there, or too large for a program."""
        from canister.ao.processes.messages import Incoming

        try:
            found = self._archive.find(id)
        except NotFound:
            return None
        record = found.record
        if not found.has_all or record.data_bytes > MAX_ITEM_BYTES:
            return None
        data = b"".join([block async for block in self._archive.data(found)])
        return Incoming(record.id, record.owner, record.target, data, record.tags, record.anchor.encode())


def _node_wallet(file: Path) -> ArweaveWallet:
    """Made once; whoever has the file is this node."""
    from canister.ao.signing.wallets import ArweaveWallet

    if file.exists():
        return ArweaveWallet.from_jwk(file.read_text(encoding="ascii"))
    wallet = ArweaveWallet.generate()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic_file.create(file, wallet.to_jwk().encode())
    return wallet


if __name__ == "__main__":
    process.main(opened)
