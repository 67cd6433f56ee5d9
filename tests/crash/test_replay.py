"""IC messages that come again after the server was killed (SIGKILL): run once if they were answered, or not at all."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx

from canister.api import codec
from canister.api.methods import BY_NAME
from canister.api.records import CallLogInput, FileUploadInputRecord
from canister.client.local_server import LocalServer
from canister.ic import cbor, certificate, envelope, hash_tree, principal
from canister.ic.identity import Identity

CANISTER = principal.from_text(principal.canister_id(0))
CHUNK = bytes(100_000)
N_CHUNKS = 40


def seal(server: LocalServer, number: int) -> tuple[bytes, bytes]:
    """An upload of one chunk, signed by the controller."""
    arg = FileUploadInputRecord(filename="x.bin", chunk=CHUNK, chunksize=len(CHUNK), offset=number * len(CHUNK))
    content = {
        "request_type": "call",
        "canister_id": CANISTER,
        "method_name": "file_upload_chunk",
        "arg": codec.encode_args(BY_NAME["file_upload_chunk"], arg),
        "ingress_expiry": time.time_ns() + 240 * 10**9,
    }
    return envelope.seal(content, identity(server))


def identity(server: LocalServer) -> Identity:
    return Identity.from_pem((server.data_dir / "controller.pem").read_bytes())


def post(server: LocalServer, body: bytes, action: str = "call", version: str = "v4") -> Any:
    url = f"{server.url}/api/{version}/canister/{principal.to_text(CANISTER)}/{action}"
    return cbor.decode(httpx.post(url, content=body, trust_env=False, timeout=30).content)


def reply(server: LocalServer, body: bytes, id: bytes) -> codec.Answer:
    status: Any = cbor.decode(httpx.get(f"{server.url}/api/v2/status", trust_env=False).content)
    tree = certificate.verify(post(server, body)["certificate"], status["root_key"], CANISTER, time.time_ns())
    reply = hash_tree.leaf(tree, b"request_status", id, b"reply") or b""
    return codec.decode_reply(BY_NAME["file_upload_chunk"], reply)


def logged(server: LocalServer) -> int:
    """How many uploads were run, as the log of calls has it."""
    row = BY_NAME["get_call_log"]
    content = {
        "request_type": "query",
        "canister_id": CANISTER,
        "method_name": row.name,
        "arg": codec.encode_args(row, CallLogInput(max_entries=1000)),
        "ingress_expiry": time.time_ns() + 240 * 10**9,
    }
    document = post(server, envelope.seal(content, identity(server))[0], "query", "v3")
    entries = codec.decode_reply(row, document["reply"]["arg"]).value
    return sum(entry.method == "file_upload_chunk" for entry in entries)


def test_every_message_is_run_once_however_often_the_server_is_killed(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server:
        root_key = (server.data_dir / "root.key").read_text()
        number = 0
        for round in range(3):
            killer = threading.Timer(0.15 + 0.1 * round, server.kill)
            killer.start()
            while number < N_CHUNKS:
                body, id = seal(server, number)
                try:
                    answer = reply(server, body, id)
                except httpx.TransportError:
                    break
                assert answer.value.filesize == (number + 1) * len(CHUNK)
                number += 1
            killer.join()
            server.start()
            # The one that broke off: whether it was run before or is run now, the answer is the same.
            for _ in range(2):
                assert reply(server, body, id).value.filesize in ((number + 1) * len(CHUNK), number * len(CHUNK))
            number = reply(server, body, id).value.filesize // len(CHUNK)
            assert logged(server) == number
        assert (server.data_dir / "root.key").read_text() == root_key
