"""Compressed bodies, and compressed answers.

A body with `Content-Encoding: gzip` is decoded before anything counts or reads it, a piece at a time, so that its
decoded size is bounded. Other encodings are refused. So are those of files, which are stored as they are sent.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from functools import lru_cache

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive

from canister.errors import BadArgument, UnsupportedEncoding
from canister.server.answers import rejected
from canister.server.middleware.asked import Asked
from canister.server.requests import is_stream

PIECE_BYTES = 65_536
SMALLEST_BYTES = 1024  # of an answer that is worth it
_GZIP = zlib.MAX_WBITS + 16


def decode_body(asked: Asked) -> ASGIApp | None:
    """A check: bodies are handed on decoded; 415 for unknown encodings."""
    given = ", ".join(asked.all_of(b"content-encoding")).strip().lower()
    if given in ("", "identity"):
        return None
    is_file = is_stream(asked.scope)
    if given == "gzip" and not is_file:
        asked.receive = _Decoded(asked.receive).receive
        return None
    response = rejected(asked.scope, UnsupportedEncoding(_refusal(given, is_file)))
    response.headers["Accept-Encoding"] = "identity" if is_file else "gzip"
    return response


def _refusal(given: str, is_file: bool) -> str:
    if is_file:
        return "what is put is stored as it is sent: leave out Content-Encoding"
    return f"bodies are taken as they are or in gzip, not in {given[:40]!r}: leave out Content-Encoding"


class _Decoded:
    """ASGI's `receive` with decoded bodies. Raises BadArgument for bodies that are no gzip."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._decoder = zlib.decompressobj(_GZIP)
        self._waiting = b""  # what came and is not decoded yet
        self._has_come = self._is_told = False  # is the whole body here, and handed to the app?
        self._is_empty = True

    async def receive(self) -> Message:
        while not (self._waiting or self._has_come):
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._waiting, self._has_come = message.get("body", b""), not message.get("more_body", False)
        if self._is_told:
            return await self._receive()
        piece = self._next_piece() if self._waiting else b""
        self._is_told = self._has_come and not self._waiting
        if self._is_told and not (self._decoder.eof or self._is_empty):
            raise BadArgument("the body ends before its gzip stream does")
        return {"type": "http.request", "body": piece, "more_body": not self._is_told}

    def _next_piece(self) -> bytes:
        given, self._waiting, self._is_empty = self._waiting, b"", False
        try:
            piece = self._decoder.decompress(given, PIECE_BYTES)
        except zlib.error:
            raise BadArgument("the body is not gzip, as its Content-Encoding says") from None
        if self._decoder.unused_data:
            raise BadArgument("the body goes on after its gzip stream")
        self._waiting = self._decoder.unconsumed_tail
        return piece


async def compressible(
    request: Request, content: bytes, headers: dict[str, str], media_type: str, status: int = 200
) -> Response:
    """A constant answer, in gzip for clients that accept that."""
    headers = {**headers, "Vary": "Accept-Encoding"}
    accepted = {part.strip().lower() for part in request.headers.get("accept-encoding", "").split(",")}
    if "gzip" in accepted and len(content) >= SMALLEST_BYTES:
        headers["Content-Encoding"] = "gzip"
        content = await asyncio.to_thread(_compressed, content)
    return Response(content, status, headers, media_type)


@lru_cache(maxsize=16)
def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
