"""Codes that sign a browser in: each counts once, for ten minutes, and lives in memory alone.

A code stands in the fragment of a link, which no browser sends anywhere. It is worth an API key of the principal that
it was made for, so a link that was opened, or that is old, is worth nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

LIFETIME_SECONDS = 600
MAX_CODES = 64  # the oldest is forgotten, so that nobody can fill the memory


class SignInCodes:
    """now: seconds of a clock that only moves forward."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._codes: OrderedDict[bytes, tuple[str, float]] = OrderedDict()  # by hash: principal, end of its life
        self._messages: OrderedDict[bytes, float] = OrderedDict()  # by id: when it would be too old anyway

    def make(self, principal: str) -> str:
        """A new code for this principal."""
        code = secrets.token_urlsafe(24)
        self._codes[_hash(code)] = principal, self._now() + LIFETIME_SECONDS
        while len(self._codes) > MAX_CODES:
            self._codes.popitem(last=False)
        return code

    def take(self, code: str) -> str | None:
        """The principal of a code, which is worth nothing from now on. None: unknown, used or too old."""
        principal, end = self._codes.pop(_hash(code), (None, 0.0))
        return principal if self._now() < end else None

    def is_new(self, message: bytes) -> bool:
        """Has no signed message of this id signed anybody in before? It counts as having done so from now on."""
        now = self._now()
        while self._messages and next(iter(self._messages.values())) < now:
            self._messages.popitem(last=False)
        if message in self._messages:
            return False
        self._messages[message] = now + LIFETIME_SECONDS  # longer than a signed message may be valid
        return True


def _hash(code: str) -> bytes:
    # Looked up by its hash, so that the time of the look-up tells nothing of the codes that there are.
    return hashlib.sha256(code.encode("utf-8", "replace")).digest()
