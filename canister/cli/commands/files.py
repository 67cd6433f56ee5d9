"""`canister upload` and `canister download`; `scripts.upload` and `scripts.download` are the same."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from canister.cli.shared.complete import canister_files
from canister.cli.shared.hints import told_who
from canister.cli.shared.options import SERVER, ServerOptions, takes_server

if TYPE_CHECKING:
    from rich.progress import Progress

    from canister.api.records import FileDetailsRecord
    from canister.client.errors import ClientError
    from canister.client.transfer import TransferKind, Transferred

DEFAULT_MODEL_NAME = "models/model.gguf"
GGUF = b"GGUF"
LOADED = ". It is the loaded model: chats go on with what is loaded until load_model, or a restart, takes the new file"
N_PLAIN_LINES = 10  # progress of a whole file, where no bar can be drawn


class FileType(StrEnum):
    gguf = "gguf"
    promptcache = "promptcache"
    log = "log"
    wasm = "wasm"
    other = "other"

    @property
    def kind(self) -> TransferKind:
        """Which methods move it: a prompt cache lies in the caller's own folder."""
        return "promptcache" if self is FileType.promptcache else "file"


Type = Annotated[
    FileType,
    typer.Option(metavar="|".join(FileType), help="promptcache moves a prompt cache of the caller, all others a file."),
]
ChunkSize = Annotated[int, typer.Option(min=1, metavar="N", help="Bytes in a call; at most 2097152.")]
Candid = Annotated[
    str | None, typer.Option("--candid", hidden=True, help="Accepted and not needed: the interface is known.")
]


@takes_server
def upload(
    local_filename: Annotated[Path, typer.Argument(metavar="FILE", help="Local file.", show_default=False)],
    canister_filename: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Name in the canister. [default: for gguf {DEFAULT_MODEL_NAME}, or models/PART; else the local name]",
            show_default=False,
        ),
    ] = None,
    filetype: Type = FileType.gguf,
    chunksize: ChunkSize = 2_000_000,
    hf_sha256: Annotated[
        str | None,
        typer.Option(
            metavar="HEX",
            help="SHA-256 the local file must have, as HuggingFace shows it.",
            show_default=False,
        ),
    ] = None,
    server: ServerOptions = SERVER,
    candid: Candid = None,
) -> None:
    """Upload a file to a canister, in chunks.

    An interrupted upload continues where it stopped. The hash is compared at the end.
    """
    from canister.client import transfer

    if not local_filename.is_file():
        raise typer.BadParameter(f"{local_filename} is not a file")
    name = canister_filename or _default_name(local_filename.name, filetype)
    if filetype is FileType.gguf and (canister_filename is None or name.endswith(".gguf")):
        _check_gguf(local_filename, name)
    connected = server.caller()

    async def run() -> transfer.Transferred:
        async with connected() as client, told_who(client, server.canister):
            with ProgressReport(name) as report:
                return await transfer.upload(
                    client,
                    local_filename,
                    name,
                    kind=filetype.kind,
                    chunk_bytes=chunksize,
                    expected_sha256=hf_sha256,
                    progress=report.advance,
                    retries=transfer.Retries(on_retry=report.retry),
                    replaces=replaced,
                )

    async def replaced(before: FileDetailsRecord) -> None:
        is_loaded = await _loaded_file(server) == name
        print(
            f"{name} is in the canister already, another file of {before.filesize} bytes, sha256 {before.filesha256}; "
            f"it is replaced{LOADED if is_loaded else ''}",
            file=sys.stderr,
        )

    done = asyncio.run(run())
    print(f"uploaded {name}: {done.filesize} bytes{_resumed(done)}, sha256 {done.sha256}")


@takes_server
def download(
    canister_filename: Annotated[
        str, typer.Argument(metavar="NAME", help="Name in the canister.", autocompletion=canister_files)
    ],
    local_filename: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Local file. [default: as in the canister]", show_default=False),
    ] = None,
    filetype: Type = FileType.gguf,
    chunksize: ChunkSize = 2_000_000,
    server: ServerOptions = SERVER,
    candid: Candid = None,
) -> None:
    """Download a file from a canister, in chunks.

    An interrupted download continues from its .part file. The hash is compared if the canister has one.
    """
    from canister.client import transfer

    target = local_filename or _local_name(canister_filename)
    connected = server.caller()

    async def run() -> transfer.Transferred:
        async with connected() as client, told_who(client, server.canister):
            with ProgressReport(canister_filename) as report:
                return await transfer.download(
                    client,
                    canister_filename,
                    target,
                    kind=filetype.kind,
                    chunk_bytes=chunksize,
                    progress=report.advance,
                    retries=transfer.Retries(on_retry=report.retry),
                )

    done = asyncio.run(run())
    print(f"downloaded {target}: {done.filesize} bytes{_resumed(done)}, sha256 {done.sha256}")


def _check_gguf(file: Path, name: str) -> None:
    """Refuse a file that is no model in the place of one."""
    with file.open("rb") as opened:
        head = opened.read(len(GGUF))
    if head != GGUF:
        raise typer.BadParameter(
            f"{file} is not a GGUF file (it begins with {head!r}) and would be {name} in the canister. "
            "--filetype other uploads it under its own name, --canister-filename under another"
        )


async def _loaded_file(asked: ServerOptions) -> str | None:
    """The file of the loaded model. None also for callers who may not know it."""
    from canister.client.errors import ClientError
    from canister.client.rest import Canister

    try:
        server = asked.connection()
        async with Canister(server.url, asked.canister, server.api_key) as client:
            file = (await client.engine()).get("file") or {}
    except ClientError:
        return None
    name: str | None = file.get("name")
    return name


def _default_name(local_name: str, filetype: FileType) -> str:
    from canister.model_file.parts import PartName

    if filetype is not FileType.gguf:
        return local_name
    return DEFAULT_MODEL_NAME if PartName.read(local_name) is None else f"models/{local_name}"


def _local_name(canister_filename: str) -> Path:
    """The same path below the working folder, never outside it."""
    path = PurePosixPath(canister_filename.lstrip("/"))
    if not path.name or ".." in path.parts:
        raise typer.BadParameter(f"{canister_filename!r} makes no local name; give one with --local-filename")
    return Path(path)


def _resumed(done: Transferred) -> str:
    return f" ({done.n_resumed_bytes} of them were there)" if done.n_resumed_bytes else ""


class ProgressReport:
    """Shows on stderr how far a transfer is: a bar on a terminal, a few plain lines elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Progress | None = None
        self._n_lines = 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.add_task(self._name, total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """Show the progress."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done_bytes, total=total_bytes)
            return
        n_lines = N_PLAIN_LINES * done_bytes // total_bytes if total_bytes else N_PLAIN_LINES
        if n_lines > self._n_lines:
            self._n_lines = n_lines
            percent = 100 * done_bytes // total_bytes if total_bytes else 100
            line = f"{self._name}: {done_bytes} of {total_bytes} bytes ({percent} %)"
            print(line, file=sys.stderr, flush=True)

    def retry(self, error: ClientError, pause_seconds: float) -> None:
        """Show that a chunk is tried again."""
        text = f"{str(error).rstrip('.')}. Trying again in {pause_seconds:g} s."
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
