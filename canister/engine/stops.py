"""Stop strings in a stream of bytes: which one ends it, and how much of a tail may still become one.

Bytes, since a token may end within a character. The same bytes fed in any pieces give the same end and, put together,
the same bytes to show. Of several stops, the one that ends first counts, and of those the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

from canister.errors import BadRequest

MAX_STOPS = 1024
MAX_STOP_BYTES = 4096  # of one


class Stops:
    """Of one answer. `feed` gets its bytes in order. `found` is the stop that ended it, if there is one."""

    def __init__(self, stops: Sequence[str]) -> None:
        """BadRequest says what is too much. Empty strings are no stops."""
        self._stops = {stop.encode("utf-8", "replace"): stop for stop in stops if stop}
        if len(self._stops) > MAX_STOPS:
            raise BadRequest(f"{len(self._stops)} stop strings are too many: an answer may have {MAX_STOPS}")
        self.longest = max(map(len, self._stops), default=0)
        if self.longest > MAX_STOP_BYTES:
            raise BadRequest(f"A stop string of {self.longest} bytes is too long: at most {MAX_STOP_BYTES}")
        self._firsts = frozenset(stop[0] for stop in self._stops)
        self.found: str | None = None
        self.held = b""  # the end of what was fed, as it may become a stop

    def feed(self, data: bytes) -> bytes:
        """The bytes to show after these; none once a stop was found."""
        if self.found is not None:
            return b""
        if not self._stops:
            return data
        data = self.held + data
        ends = [(at + len(stop), at, stop) for stop in self._stops if (at := data.find(stop)) >= 0]
        if ends:
            _, at, stop = min(ends)
            self.found, self.held = self._stops[stop], b""
            return data[:at]
        n = self._n_shown(data)
        self.held = data[n:]
        return data[:n]

    def end(self) -> bytes:
        """The bytes held back, now that nothing more will come."""
        held, self.held = self.held, b""
        return held

    def _n_shown(self, data: bytes) -> int:
        """Where the longest tail begins that a stop begins with."""
        for at in range(max(0, len(data) - self.longest + 1), len(data)):
            if data[at] in self._firsts and any(stop.startswith(data[at:]) for stop in self._stops):
                return at
        return len(data)
