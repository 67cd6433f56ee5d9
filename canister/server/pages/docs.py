"""The page that shows the OpenAPI document: Swagger UI, served from this machine, so that it works without a network.

The browser may run and call only what this server has, so an API key typed into the page reaches nobody else. Addresses
in the page are relative, so that a proxy may put the server under a prefix.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import fastapi_offline  # has the files of Swagger UI; nothing else of it is used
from fastapi import Request, Response
from starlette.routing import Route

from canister.server.middleware.encodings import compressible
from canister.server.verbs import page

HEADERS = {
    # Styles: Swagger UI writes some into its elements, and draws small images from data.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FOLDER = Path(fastapi_offline.__file__).parent / "static"
_LIBRARY = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
_HTML = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>llama-canister</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<noscript>The methods are in <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# No validator: it would be asked over the network. The filter is for paths and summaries; the library's own one is for
# names of groups. Schemas are there, and folded.
_SCRIPT = """\
const filter = () => ({ fn: { opsFilter: (groups, phrase) => {
  const wanted = phrase.toLowerCase();
  const fits = (operation) => (operation.get("path") + " " + operation.getIn(["operation", "summary"], ""))
    .toLowerCase().includes(wanted);
  return groups.map((group) => group.set("operations", group.get("operations").filter(fits)))
    .filter((group) => group.get("operations").size > 0);
} } });
SwaggerUIBundle({
  url: "openapi.json", dom_id: "#page", deepLinking: true, layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis], plugins: [filter], validatorUrl: null,
  filter: true, defaultModelsExpandDepth: 0, displayRequestDuration: true,
  onComplete: () => document.querySelector(".operation-filter-input").placeholder = "Filter by path or summary",
});
"""


def routes() -> list[Route]:
    files = [page(f"/docs/{name}", _library_file) for name in _LIBRARY]
    return [page("/docs", _page), page("/docs/start.js", _script), page("/favicon.ico", _icon), *files]


async def _page(_request: Request) -> Response:
    return Response(_HTML, headers=HEADERS, media_type="text/html")


async def _script(_request: Request) -> Response:
    return Response(_SCRIPT, headers=HEADERS, media_type="text/javascript")


async def _library_file(request: Request) -> Response:
    name = request.url.path.rpartition("/")[2]
    return await compressible(request, _library(name), HEADERS, _LIBRARY[name])


async def _icon(request: Request) -> Response:
    return Response(_library("favicon.png"), headers=HEADERS, media_type="image/png")


@cache
def _library(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
