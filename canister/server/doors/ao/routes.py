"""All routes of AO under one root, in the order in which a path is compared with them."""

from __future__ import annotations

from starlette.routing import Route

from canister.ao.storage.archive import Archive
from canister.ao.storage.uploads import Uploads
from canister.server.doors.ao.base_layer import BaseLayer
from canister.server.doors.ao.bundler import Bundler
from canister.server.doors.ao.gateway import Gateway


def routes(archive: Archive, uploads: Uploads) -> list[Route]:
    base_layer = BaseLayer(archive)
    return [*base_layer.routes(), *Bundler(archive, uploads, base_layer).routes(), *Gateway(archive).routes()]
