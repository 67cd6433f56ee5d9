"""A small server of files as the web has them, and as huggingface_hub asks for them; it breaks off where it is told."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "a" * 40


@dataclass
class Hub:
    """files: by path; of repositories `user/repo/name`. breaks: after so many bytes of an answer, once each.

    asked: verb, path and range of each request. lies: a SHA-256 that is told of every file.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    lies: str | None = None

    def sha256(self, data: bytes) -> str:
        return self.lies or hashlib.sha256(data).hexdigest()

    def listing(self, repository: str) -> dict[str, object] | None:
        files = {path: data for path, data in self.files.items() if path.startswith(f"{repository}/")}
        if not files:
            return None
        siblings = [
            {
                "rfilename": path.removeprefix(f"{repository}/"),
                "size": len(data),
                "lfs": {"sha256": self.sha256(data), "size": len(data), "pointerSize": 134},
            }
            for path, data in files.items()
        ]
        return {"id": repository, "modelId": repository, "sha": REVISION, "siblings": siblings, "tags": []}


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.answer(has_body=False)

        def do_GET(self) -> None:
            self.answer(has_body=True)

        def answer(self, *, has_body: bool) -> None:
            path = self.path.partition("?")[0].lstrip("/")
            span = self.headers.get("Range", "")
            hub.asked.append((self.command, path, span))
            if path.startswith("api/models/"):
                listing = hub.listing(path.removeprefix("api/models/").partition("/revision/")[0])
                self.reply(404 if listing is None else 200, json.dumps(listing or {}).encode(), {}, has_body)
                return
            repository, is_resolved, rest = path.partition("/resolve/")
            name = f"{repository}/{rest.partition('/')[2]}" if is_resolved else path
            data = hub.files.get(name)
            if data is None:
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, has_body)
                return
            etag = f'"{hub.sha256(data)}"'
            headers = {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes"}
            headers["X-Repo-Commit"] = REVISION
            first = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
            if first and self.headers.get("If-Range", etag) == etag:
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
                self.reply(206, data[first:], headers, has_body)
            else:
                self.reply(200, data, headers, has_body)

        def reply(self, status: int, body: bytes, headers: dict[str, str], has_body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if not has_body:
                return
            if hub.breaks and len(body) > hub.breaks[0]:
                self.wfile.write(body[: hub.breaks.pop(0)])
                self.close_connection = True
                return
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
