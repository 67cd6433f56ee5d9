"""The canister under test, as its users see it: HTTP and JSON, none of our own client.

    pytest tests/smoke                                            starts a server of its own
    pytest tests/smoke --network http://host:8000 --canister llama_cpp --model models/some.gguf --api-key lc_…

The caller must be a controller. Against a running server the uploaded model stays loaded, as MODEL_NAME; the limits on
tokens per call are put back and everything else is removed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.cli.shared.connection import connection
from canister.client.local_server import LocalServer
from canister.model_file.shipped import SHIPPED_MODEL, shipped_model

MODEL_NAME = "models/smoke-test.gguf"
CHUNK_BYTES = 1_000_000
SECONDS = 600.0

Json = Any


@dataclass(frozen=True)
class Answer:
    status: int
    document: Json


class Wire:
    """One canister over HTTP."""

    def __init__(self, url: str, canister: str, api_key: str | None) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self.http = httpx.Client(
            base_url=f"{url}/canisters/{canister}", headers=headers, timeout=SECONDS, trust_env=False
        )

    def call(self, method: str, arg: Json = None) -> Answer:
        response = self.http.post(f"/{method}") if arg is None else self.http.post(f"/{method}", json=arg)
        return Answer(response.status_code, response.json())

    def ok(self, method: str, arg: Json = None) -> Json:
        """The value inside Ok."""
        answer = self.call(method, arg)
        assert answer.status == 200, answer
        assert list(answer.document) == ["Ok"], answer
        return answer.document["Ok"]

    def run(self, *args: str) -> Json:
        return self.ok("run_update", {"args": list(args)})

    def upload(self, name: str, content: bytes, chunk_bytes: int = CHUNK_BYTES) -> None:
        """In chunks; after each one the canister has what was sent until then."""
        for offset in range(0, max(1, len(content)), chunk_bytes):
            chunk = content[offset : offset + chunk_bytes]
            arg = {
                "filename": name,
                "chunk": base64.b64encode(chunk).decode(),
                "chunksize": chunk_bytes,  # the nominal size, as the original's script sends it
                "offset": offset,
            }
            so_far = content[: offset + len(chunk)]
            assert self.ok("file_upload_chunk", arg) == {
                "filename": name,
                "filesize": len(so_far),
                "filesha256": hashlib.sha256(so_far).hexdigest(),
            }

    def download(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> bytes:
        content = b""
        while True:
            piece = self.ok("file_download_chunk", {"filename": name, "chunksize": chunk_bytes, "offset": len(content)})
            chunk = base64.b64decode(piece["chunk"])
            assert (piece["chunksize"], piece["offset"]) == (len(chunk), len(content))
            content += chunk
            assert piece["done"] is (len(content) >= piece["filesize"])
            if piece["done"]:
                return content


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> tuple[str, str, str | None]:
    """URL, canister and key that the command line means; without --network a server of our own."""
    options = request.config.option
    if options.network is not None:
        server = connection(options.network, options.api_key, False, None)
        return server.url, options.canister, server.api_key
    own: LocalServer = request.getfixturevalue("running_server")
    return own.url, "llama_cpp", own.api_key


@pytest.fixture(scope="session")
def canister(target: tuple[str, str, str | None]) -> Iterator[Wire]:
    """The canister, called by its controller."""
    wire = Wire(*target)
    with wire.http:
        limits = wire.call("get_max_tokens")
        assert limits.status == 200, limits
        yield wire
        wire.ok("set_max_tokens", limits.document)


@pytest.fixture(scope="session")
def anonymous(target: tuple[str, str, str | None]) -> Iterator[Wire]:
    """The canister, called by anybody."""
    wire = Wire(target[0], target[1], None)
    with wire.http:
        yield wire


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest) -> Path:
    path: Path | None = request.config.option.model or shipped_model()
    if path is None:
        pytest.skip(f"{SHIPPED_MODEL} is not here; give a GGUF with --model FILE")
    return path


@pytest.fixture(scope="session")
def uploaded(canister: Wire, model: Path) -> str:
    """The model in the canister's stable memory; its name there."""
    canister.upload(MODEL_NAME, model.read_bytes())
    return MODEL_NAME


@pytest.fixture(scope="session")
def loaded(canister: Wire, uploaded: str) -> Wire:
    """The canister with its model loaded."""
    output = canister.ok("load_model", {"args": ["--model", uploaded]})["output"]
    assert output == "Model succesfully loaded into memory."
    return canister
