"""Messages between a cage and its keeper: values with their length in front, over a socket. Both sides are in Python,
but what a cage sends may be anybody's: it is bounded, and decoded as values and nothing else.
"""

from __future__ import annotations

import socket
import time

from canister.ao.lua import values
from canister.ao.lua.values import BadValue, Value

MAX_FRAME_BYTES = 64 << 20
_LENGTH_BYTES = 4


class CageEnded(Exception):
    """The other side has gone, or sent what is no frame."""


def send(connection: socket.socket, *parts: Value) -> None:
    """Raises CageEnded, and BadValue for what is too long."""
    data = values.encode(*parts)
    if len(data) > MAX_FRAME_BYTES:
        raise BadValue(f"a message of {len(data)} bytes is too long for a program; {MAX_FRAME_BYTES} are taken")
    try:
        connection.sendall(len(data).to_bytes(_LENGTH_BYTES, "little") + data)
    except OSError:
        raise CageEnded("the other side takes nothing any more") from None


def receive(connection: socket.socket, deadline: float | None = None) -> list[Value]:
    """deadline: by time.monotonic. Raises CageEnded, and TimeoutError when it has passed."""
    n_bytes = int.from_bytes(_exactly(connection, _LENGTH_BYTES, deadline), "little")
    if n_bytes > MAX_FRAME_BYTES:
        raise CageEnded(f"a message of {n_bytes} bytes is no frame")
    try:
        return values.decode(_exactly(connection, n_bytes, deadline))
    except BadValue:
        raise CageEnded("what came is no frame") from None


def _exactly(connection: socket.socket, n_bytes: int, deadline: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < n_bytes:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        try:
            part = connection.recv(min(n_bytes - len(parts), 1 << 20))
        except TimeoutError:
            raise
        except OSError:
            part = b""
        if not part:
            raise CageEnded("the other side has gone")
        parts += part
    connection.settimeout(None)
    return bytes(parts)
