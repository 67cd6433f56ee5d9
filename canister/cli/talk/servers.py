"""Which server a chat goes to: the one that is named, else the one that runs, else one of its own that goes with it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from canister.cli.shared.connection import Connection

if TYPE_CHECKING:
    from canister.model_file.gguf import GgufFile

LOOK_SECONDS = 2.0  # for a server that runs here
LARGE_MODEL_CONTEXT_TOKENS = 4096  # a model of the user's may have room for more than this machine has memory


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers. model: what its canister has loaded, None for nothing. has_canister: of that name."""

    model: str | None
    has_canister: bool


def look(url: str, canister: str) -> RunningServer | None:
    """What runs at a URL; None when no server of ours answers there."""
    from canister.client.http_library import httpx, open_client

    try:
        with open_client(url, LOOK_SECONDS) as client:
            answer = client.get("/canisters")
        rows = answer.json()["canisters"]
        row = next((row for row in rows if canister in (row["name"], row["id"])), None)
        if row is None:
            return RunningServer(None, has_canister=False)
        return RunningServer(row["model"] if row["ready"] else None, has_canister=True)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A model file that may be loaded. n_ctx: of its context; 0: as large as it was trained with."""

    file: Path
    n_ctx: int


def own_model(model: Path | None) -> OwnModel:
    """The file of a server of one's own; its header is looked at first. Raises typer.BadParameter, BadRequest."""
    from canister.model_file.shipped import SHIPPED_MODEL, shipped_model

    if model is None:
        shipped = shipped_model()
        if shipped is None:
            raise typer.BadParameter(f"{SHIPPED_MODEL} is not in this installation; give a GGUF with -m FILE")
        return OwnModel(shipped, 0)
    if not model.is_file():
        raise typer.BadParameter(f"-m {model} is not a file")
    header = _header(model)
    trained = header.integer(f"{header.architecture}.context_length") or 0
    n_ctx = LARGE_MODEL_CONTEXT_TOKENS if trained == 0 or trained > LARGE_MODEL_CONTEXT_TOKENS else 0
    return OwnModel(model, n_ctx)


def _header(model: Path) -> GgufFile:
    from canister.errors import BadRequest
    from canister.model_file.gguf import read_gguf
    from canister.model_file.kind import why_no_chat

    try:
        header = read_gguf(model)
    except BadRequest as error:
        raise BadRequest(f"-m {model}: {error}") from None
    reason = why_no_chat(header)
    if reason is not None:
        raise BadRequest(f"-m {model}: {reason}")
    return header


@contextmanager
def own_server(canister: str, model: OwnModel, why: str) -> Iterator[Connection]:
    """A server on a temporary data folder, both gone at the end. why: there is none to talk to, for the person."""
    from canister.client.local_server import LocalServer

    print(f"{why}starting a server with {model.file.name}, for this chat alone …", file=sys.stderr, flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="canister-chat-") as folder,
        LocalServer(Path(folder), "--canister", canister, "--slots", "1") as server,
    ):
        yield Connection(server.url, server.api_key)
