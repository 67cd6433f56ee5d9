"""A surplus slash at the end of a path: readers are redirected to the path without it, others get it removed.

In paths of files it means a folder, and the IC interface has no path with one.
"""

from __future__ import annotations

import re

from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from canister.server.middleware.asked import Asked

_KEPT = re.compile(r"/api/|/canisters/[^/]*/(files|models)/")


def cut_slashes(asked: Asked) -> ASGIApp | None:
    """A check."""
    scope = asked.scope
    raw: bytes = scope.get("raw_path", b"").partition(b"?")[0]
    if raw.endswith(b"/"):  # not one that is written %2F, which is part of a name
        path, shorter = scope["path"].rstrip("/"), raw.rstrip(b"/")
        if path and shorter and not _KEPT.match(scope["path"]):
            if scope["method"] in ("GET", "HEAD"):
                return Response(status_code=308, headers={"Location": _relative(scope, raw, shorter)})
            asked.scope = {**scope, "path": path, "raw_path": shorter}
    return None


def _relative(scope: Scope, raw: bytes, shorter: bytes) -> str:
    """From the path with slashes to the one without, so that a proxy may put the server under a prefix."""
    up = "../" * (len(raw) - len(shorter))
    query: bytes = scope["query_string"]
    return up + shorter.rpartition(b"/")[2].decode("ascii") + (f"?{query.decode('ascii')}" if query else "")
