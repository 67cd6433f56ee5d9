"""A transport that sends what is written at once together: head and body of an answer, or the tokens of one moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

MAX_HELD_BYTES = 64 * 1024


class Corked(asyncio.Transport):
    """Puts itself before a transport. What is written goes out when the event loop has run what is ready now: a call of
    the system for each of a hundred writes would take longer than all that made them.
    """

    def __init__(self, behind: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._behind, self._loop = behind, loop
        self._held: list[bytes | bytearray | memoryview] = []
        self._n_held = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._n_held += len(data)
        if self._n_held > MAX_HELD_BYTES:
            self.flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for data in list_of_data:
            self.write(data)

    def flush(self) -> None:
        """Send what is held, if the connection is still there."""
        held, self._held, self._n_held = self._held, [], 0
        if held and not self._behind.is_closing():
            self._behind.write(held[0] if len(held) == 1 else b"".join(held))

    def close(self) -> None:
        self.flush()
        self._behind.close()

    def write_eof(self) -> None:
        self.flush()
        self._behind.write_eof()

    def get_write_buffer_size(self) -> int:
        return self._n_held + self._behind.get_write_buffer_size()

    # -- as the one behind

    def abort(self) -> None:
        self._behind.abort()

    def can_write_eof(self) -> bool:
        return self._behind.can_write_eof()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._behind.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._behind.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._behind.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._behind.get_protocol()

    def is_reading(self) -> bool:
        return self._behind.is_reading()

    def pause_reading(self) -> None:
        self._behind.pause_reading()

    def resume_reading(self) -> None:
        self._behind.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._behind.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._behind.get_write_buffer_limits()
