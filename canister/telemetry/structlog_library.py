"""structlog without rich, which only its own console renderer uses: 4 MB of a server's memory."""

from __future__ import annotations

from canister.lean_imports import without

with without("rich"):
    import structlog as structlog
