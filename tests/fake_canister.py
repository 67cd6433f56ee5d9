"""The file methods of a canister in memory, behind httpx: for clients whose network fails where a test wants it to."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from canister.client.rest import Canister

Fault = Literal["request lost", "reply lost", "busy", "stopping", "away"]


@dataclass
class FakeCanister:
    """faults: what happens to the requests of a chunk method, by their number from 0. calls: what was asked."""

    files: dict[str, bytearray] = field(default_factory=dict)
    faults: dict[int, Fault] = field(default_factory=dict)
    calls: list[tuple[str, int]] = field(default_factory=list)
    last_offset: int = -1

    def client(self) -> Canister:
        return Canister("http://127.0.0.1:1", "fake", transport=httpx.MockTransport(self._answer))

    def offsets(self, method: str) -> list[int]:
        """Where the chunks of a method began, in the order of the requests."""
        return [offset for name, offset in self.calls if name == method]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        method = request.url.path.rpartition("/")[2]
        arg = json.loads(request.content or b"{}")
        fault = None
        if "chunk" in method:
            fault = self.faults.get(len(self.calls))
            self.calls.append((method, arg["offset"]))
        match fault:
            case "request lost":
                raise httpx.ReadError("connection reset", request=request)
            case "away":
                raise httpx.ConnectError("All connection attempts failed", request=request)
            case "busy":
                return httpx.Response(429, json={"Err": {"Other": "busy"}}, headers={"Retry-After": "0"})
            case "stopping":
                reject = {"reject_code": 5, "error_code": "IC0509", "reject_message": "stopping"}
                return httpx.Response(503, json=reject)
        status, document = self._execute(method, arg)
        if fault == "reply lost":
            raise httpx.RemoteProtocolError("server disconnected", request=request)
        return httpx.Response(status, json=document)

    def _execute(self, method: str, arg: dict[str, Any]) -> tuple[int, object]:
        name = arg.get("filename") or arg.get("promptcache") or ""
        match method:
            case "file_upload_chunk" | "upload_prompt_cache_chunk":
                return self._upload(name, base64.b64decode(arg["chunk"]), arg["offset"])
            case "uploaded_file_details" | "uploaded_prompt_cache_details":
                return (200, {"Ok": self._details(name)}) if name in self.files else _missing(name)
            case "file_download_chunk" | "download_prompt_cache_chunk":
                return self._download(name, arg["offset"], arg["chunksize"])
        raise AssertionError(method)

    def _upload(self, name: str, chunk: bytes, offset: int) -> tuple[int, object]:
        file = self.files.setdefault(name, bytearray())
        if offset == 0:
            file.clear()
        if offset == 0 or offset != self.last_offset:
            if offset != len(file):
                return 400, {"Err": {"Other": f"a hole: {offset} is not {len(file)}"}}
            file += chunk
        self.last_offset = offset
        return 200, {"Ok": self._details(name)}

    def _download(self, name: str, offset: int, n_bytes: int) -> tuple[int, object]:
        if name not in self.files:
            return _missing(name)
        chunk = bytes(self.files[name][offset : offset + n_bytes])
        size = len(self.files[name])
        return 200, {
            "Ok": {
                "chunk": base64.b64encode(chunk).decode(),
                "chunksize": len(chunk),
                "filesize": size,
                "offset": offset,
                "done": offset + n_bytes >= size,
            }
        }

    def _details(self, name: str) -> dict[str, object]:
        content = self.files[name]
        return {"filename": name, "filesize": len(content), "filesha256": hashlib.sha256(content).hexdigest()}


def _missing(name: str) -> tuple[int, object]:
    return 404, {"Err": {"Other": f"{name} is missing"}}
