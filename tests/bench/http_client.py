"""A light HTTP client, the same for us and for every peer: one kept connection, `http.client`, nothing else."""

from __future__ import annotations

import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 900.0
PACED_BYTES = 1 << 18
IDLE_SECONDS = 1.0  # a connection that rested longer is made anew; servers close theirs after some seconds


class HttpError(Exception):
    """A server answered with an error; the message has its body."""


class Http:
    """JSON over one connection. Not to be shared by threads."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._last_used = 0.0

    def post(self, path: str, body: object) -> Any:
        """Send JSON, give the JSON that comes back. HttpError for a status of 400 and above."""
        self._refresh()
        self._connection.request("POST", path, json.dumps(body).encode(), self._headers)
        return self._answer(path)

    def get(self, path: str) -> bytes:
        self._refresh()
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        data = response.read()
        self._last_used = time.monotonic()
        if response.status >= 400:
            raise HttpError(f"GET {path}: {response.status} {data[:300]!r}")
        return data

    def post_and_leave(self, path: str, body: object, after_seconds: float) -> float:
        """Send JSON, wait, hang up before an answer; gives `time.perf_counter()` of the moment."""
        self._refresh()
        self._connection.request("POST", path, json.dumps(body).encode(), self._headers)
        time.sleep(after_seconds)
        sock = self._connection.sock
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)
        left = time.perf_counter()
        self._connection.close()
        return left

    def put_file(self, path: str, file: Path, bytes_per_second: float | None = None) -> Any:
        """Send a file as it is, from the kernel's cache to the socket; at most so fast, if that is given."""
        self._refresh()
        with file.open("rb") as source:
            self._connection.putrequest("PUT", path)
            for name, value in self._headers.items():
                if name != "Content-Type":
                    self._connection.putheader(name, value)
            self._connection.putheader("Content-Type", "application/octet-stream")
            self._connection.putheader("Content-Length", str(file.stat().st_size))
            self._connection.endheaders()
            assert isinstance(self._connection.sock, socket.socket)
            size, sent, begun = file.stat().st_size, 0, time.monotonic()
            while sent < size:
                sent += self._connection.sock.sendfile(source, sent, size if bytes_per_second is None else PACED_BYTES)
                if bytes_per_second is not None:
                    time.sleep(max(0.0, begun + sent / bytes_per_second - time.monotonic()))
        return self._answer(path)

    def close(self) -> None:
        self._connection.close()

    def _refresh(self) -> None:
        if time.monotonic() - self._last_used > IDLE_SECONDS:
            self._connection.close()

    def _answer(self, path: str) -> Any:
        response = self._connection.getresponse()
        data = response.read()
        self._last_used = time.monotonic()
        if response.status >= 400:
            raise HttpError(f"{path}: {response.status} {data[:500].decode(errors='replace')}")
        return json.loads(data)
