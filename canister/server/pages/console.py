"""The web console: `GET /` for browsers, and the files below `/console/` that `scripts/build_console.py` bundles.

The files lie below a hash of all of them, so that a browser keeps them for ever and never mixes two versions. Addresses
are relative, so that a proxy may put the server under a prefix. The browser may run and call only what this server has,
and no text may become markup or a script (Trusted Types).
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import Request, Response
from starlette.routing import Route

from canister.errors import MethodNotFound
from canister.model_file import shipped
from canister.server.middleware.encodings import compressible
from canister.server.verbs import page

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
HTML = "text/html"
INDEX = "index.html"
FOREVER = "public, max-age=31536000, immutable"
_PACKAGE = Path(__file__).resolve().parents[2]
_PLACES = (_PACKAGE / "shipped" / "console", _PACKAGE.parent / "console" / "dist")  # of a wheel, of a checkout

_MISSING = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>llama-canister</title></head>
<body>
<h1>llama-canister</h1>
<p>The server is running. Its web console is not in this installation, since npm could not be reached when it was built.
In a checkout <code>make console</code> builds it.</p>
<p>All methods are in <a href="docs">the documentation</a>, and <code>canister chat</code> talks to the model.</p>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """version: a hash of all files. files: by name, without index.html. index: the page."""

    version: str
    files: dict[str, bytes]
    index: bytes


def routes() -> list[Route]:
    return [page(f"/console/shipped/{shipped.SHIPPED_MODEL}", _shipped), page("/console/{version}/{name}", _file)]


def is_wanted(request: Request) -> bool:
    """Does a browser show what it gets?"""
    return HTML in request.headers.get("accept", "")


async def index(request: Request) -> Response:
    bundle = _bundle()
    content = _MISSING.encode() if bundle is None else bundle.index
    answer = await compressible(request, content, {**HEADERS, "Cache-Control": "no-cache"}, HTML)
    answer.headers["Vary"] = "Accept, Accept-Encoding"
    return answer


async def _shipped(_request: Request) -> Response:
    """The model that comes with the package, which the page puts into a canister as it would any other."""
    path = shipped.shipped_model()
    if path is None:
        raise MethodNotFound("the model that comes with the package is not in this installation")
    content = await asyncio.to_thread(path.read_bytes)
    return Response(content, headers={**HEADERS, "Cache-Control": "no-cache"}, media_type="application/octet-stream")


async def _file(request: Request) -> Response:
    bundle, name = _bundle(), request.path_params["name"]
    content = None if bundle is None else bundle.files.get(name)
    if bundle is None or content is None:
        raise MethodNotFound(f"the console has no file {name[:80]!r}; load its page, '/', again")
    # A page of another version may still ask, and must not keep what is new under the old name.
    keep = FOREVER if request.path_params["version"] == bundle.version else "no-cache"
    return await compressible(request, content, {**HEADERS, "Cache-Control": keep}, TYPES[Path(name).suffix])


@cache
def _bundle() -> Bundle | None:
    """None: this installation has none."""
    return next((read_bundle(place) for place in _PLACES if (place / INDEX).is_file()), None)


def read_bundle(folder: Path) -> Bundle:
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in TYPES}
    page_bytes = (folder / INDEX).read_bytes()
    parts = [page_bytes, *(part for name, data in files.items() for part in (name.encode(), data))]
    lengths = b"".join(len(part).to_bytes(8, "big") for part in parts)
    version = hashlib.sha256(lengths + b"".join(parts)).hexdigest()[:16]
    return Bundle(version, files, page_bytes.replace(b"{{base}}", f"console/{version}".encode()))
