"""Libraries imported without what they would like to have beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(name: str) -> Iterator[None]:
    """Inside, an import of this module fails, as if it were not installed; unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # so Python's import says that it is not there
    try:
        yield
    finally:
        del sys.modules[name]
