"""httpx, without its own command line, which it would import with rich and pygments where these are installed.

That alone takes a third of a second. Who imported httpx before has it as it is.
"""

from __future__ import annotations

import sys

_COMMAND_LINE = "httpx._main"

if "httpx" in sys.modules:
    import httpx
else:
    sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment]  # an import of it fails, which httpx expects
    try:
        import httpx
    finally:
        del sys.modules[_COMMAND_LINE]

__all__ = ["httpx"]
