"""All routes of AO under one root, in the order in which a path is compared with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.routing import Route

from canister.ao.storage.archive import Archive
from canister.ao.storage.uploads import Uploads
from canister.server.doors.ao.base_layer import BaseLayer
from canister.server.doors.ao.bundler import Bundler
from canister.server.doors.ao.delivery import Delivery
from canister.server.doors.ao.gateway import Gateway
from canister.server.doors.ao.hyperbeam import HyperBeam
from canister.server.doors.ao.legacy import LegacyUnits
from canister.server.doors.ao.node import Node
from canister.server.doors.ao.units import Units


@dataclass(frozen=True, slots=True)
class Network:
    """url: at which clients find all this. named: ids that they need. takes_owners: whether dry runs may say whom they
    are from."""

    units: Units
    url: str
    named: Mapping[str, str]
    takes_owners: bool = False


def routes(archive: Archive, uploads: Uploads, network: Network | None = None) -> list[Route]:
    """network: None for storage alone."""
    base_layer = BaseLayer(archive)
    found = [*base_layer.routes(), *Bundler(archive, uploads, base_layer).routes()]
    if network is None:
        return [*found, *Gateway(archive).routes()]
    units = network.units
    delivery = Delivery(units, archive, takes_owners=network.takes_owners)
    found += [*Node(units, network.named).routes(), *LegacyUnits(delivery).routes(), *HyperBeam(delivery).routes()]
    return [*found, *Gateway(archive, units, network.url).routes()]
