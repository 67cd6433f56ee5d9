"""What the IC door costs: `python -m tests.bench.ic_door`.

Envelope and certificate are the best of many runs. Messages go through the whole app, without a socket, into a data
folder in memory where there is one; their figures are processor time of all threads, so that of one core.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from canister.api import codec
from canister.api.methods import BY_NAME
from canister.api.records import FileUploadInputRecord, MaxTokensRecord
from canister.config import Settings
from canister.ic import certificate, envelope, principal
from canister.ic.certificate import RootKey
from canister.ic.identity import Identity, KeyKind
from canister.runtime.host import Host
from canister.server.app import create_app, running

CHUNK_BYTES = 2_000_000
N_CHUNKS = 40
N_UPDATES = 200
BUDGET_SECONDS = 0.5
KINDS: tuple[KeyKind, ...] = ("ed25519", "secp256k1", "prime256v1")
MEMORY = Path("/dev/shm")


def main() -> None:
    canister = principal.from_text(principal.canister_id(0))
    now_ns = time.time_ns()
    root_key = RootKey.generate()
    status = {b"request_status": {bytes(32): {b"status": b"replied", b"reply": bytes(100)}}}
    signed = root_key.certify(status, now_ns)
    made = best("certificate, made", lambda: root_key.certify(status, now_ns))
    best(
        "certificate, checked by our client",
        lambda: certificate.verify(signed, root_key.public_key_der, canister, now_ns),
    )
    for kind in KINDS:
        body = message(
            canister,
            Identity.generate(kind),
            "set_max_tokens",
            MaxTokensRecord(max_tokens_update=0, max_tokens_query=0),
        )
        checked = best(
            f"envelope, {kind}", lambda body=body: envelope.verify(envelope.read(body, "call"), time.time_ns())
        )  # type: ignore[misc]
        show("  with a certificate", checked + made)
    asyncio.run(through_the_door(canister))


async def through_the_door(canister: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        async with running(Host(Settings(data_dir=Path(folder), log_level="error"))) as host:
            transport = httpx.ASGITransport(app=create_app(host))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                path = f"/api/v4/canister/{principal.to_text(canister)}/call"

                async def seconds(bodies: list[bytes]) -> float:
                    begun = time.process_time()
                    for body in bodies:
                        response = await http.post(path, content=body)
                        assert response.status_code == 200, response.text
                        assert b"replied" in response.content
                    return time.process_time() - begun

                limits = MaxTokensRecord(max_tokens_update=0, max_tokens_query=0)
                small = [message(canister, host.identity, "set_max_tokens", limits) for _ in range(N_UPDATES)]
                show("a small update, from body to certificate", await seconds(small) / N_UPDATES)
                blob = os.urandom(CHUNK_BYTES)
                chunks = [
                    FileUploadInputRecord(
                        filename="bench.bin", chunk=blob, chunksize=CHUNK_BYTES, offset=number * CHUNK_BYTES
                    )
                    for number in range(N_CHUNKS)
                ]
                large = [message(canister, host.identity, "file_upload_chunk", chunk) for chunk in chunks]
                each = await seconds(large) / N_CHUNKS
                show("a chunk of 2 MB", each)
                print(f"{'':44}{CHUNK_BYTES / each / 1e6:8.0f} MB/s")


def message(canister: bytes, sender: Identity, method: str, value: object) -> bytes:
    content = {
        "request_type": "call",
        "canister_id": canister,
        "method_name": method,
        "arg": codec.encode_args(BY_NAME[method], value),
        "ingress_expiry": time.time_ns() + 240 * 10**9,
        "nonce": os.urandom(16),
    }
    return envelope.seal(content, sender)[0]


def best(what: str, work: Callable[[], object]) -> float:
    """Print and give the seconds of the fastest run."""
    fastest = float("inf")
    end = time.perf_counter() + BUDGET_SECONDS
    while time.perf_counter() < end:
        begun = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - begun)
    show(what, fastest)
    return fastest


def show(what: str, seconds: float) -> None:
    print(f"{what:44}{seconds * 1000:8.2f} ms")


if __name__ == "__main__":
    main()
