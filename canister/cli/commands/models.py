"""`canister models`: what models a canister has, which is loaded, and where they come from and go to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from canister.cli.commands.files import ProgressReport
from canister.cli.shared import tables
from canister.cli.shared.app import App
from canister.cli.shared.connection import LOCAL, connection
from canister.cli.shared.options import Anonymous, ApiKey, CanisterName, DataDir, Network
from canister.defaults import DEFAULT_CANISTER, user_folder
from canister.errors.nearest import nearest

if TYPE_CHECKING:
    from canister.cli.shared.pulling import Remote
    from canister.client.rest import Canister

T = TypeVar("T")

FOLDER = "models"
LOAD_SECONDS = 24 * 3600.0  # large models are tried before they are loaded
HEAD = ("MODEL", "SIZE", "KIND", "PARAMETERS", "CONTEXT", "")
UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "K"))

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A model of the canister: its path, or the file name.", show_default=False)
]

models_app = App("Models in a canister: list, load, unload, pull.")


@models_app.command("list")
def list_models(
    as_json: Json = False,
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """List the models in the canister.

    Their headers describe them. A model in several files is one model.
    """

    async def ask(client: Canister) -> list[dict[str, Any]]:
        return await _models(client)

    found = _run(ask, network, canister, api_key, anonymous, data_dir)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if not found:
        print("no models here yet: canister models pull hf:USER/REPO, or canister upload FILE")
        return
    tables.show(HEAD, [_row(model) for model in found], shorten=0, right=(1, 3, 4))


@models_app.command("show")
def show_model(
    name: Name,
    as_json: Json = False,
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """Show a model in detail.

    Its shape, context, quantization and chat template.
    """

    async def ask(client: Canister) -> dict[str, Any]:
        return await client.model((await _named(client, name))["path"])

    told = _run(ask, network, canister, api_key, anonymous, data_dir)
    if as_json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for label, value in _details(told):
        print(f"{label:<16} {value}")
    if told["chat_template"]:
        print(f"\n{told['chat_template'].rstrip()}")


_OPTIONS = {"--network", "--canister", "--api-key", "--anonymous", "--data-dir"}


@models_app.command("load", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def load_model(
    name: Name,
    flags: Annotated[
        list[str] | None,
        typer.Argument(metavar="FLAGS", help="Flags of llama.cpp, such as -c 4096 -ctk q8_0.", show_default=False),
    ] = None,
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """Load a model in place of the loaded one.

    It is loaded again after a restart. Options stand before the name; flags of llama.cpp follow it.

    Example: canister models load qwen.gguf -c 8192
    """

    misplaced = sorted({flag.partition("=")[0] for flag in flags or []} & _OPTIONS)
    if misplaced:
        raise typer.BadParameter(f"{misplaced[0]} is no flag of llama.cpp; this option stands before the model")

    async def load(client: Canister) -> str:
        path = str((await _named(client, name))["path"])
        await _load(client, ["--model", path, *(flags or [])])
        return path

    print(f"loaded {_run(load, network, canister, api_key, anonymous, data_dir)}")


@models_app.command("unload")
def unload_model(
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """Unload the loaded model, once its calls have ended.

    The next start does not load it again.
    """

    async def unload(client: Canister) -> dict[str, Any]:
        return await client.unload_model()

    print(f"unloaded {_run(unload, network, canister, api_key, anonymous, data_dir)['path']}")


@models_app.command("rm")
def remove_model(
    name: Name,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also the model that is loaded.")] = False,
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """Remove a model, all of its files."""
    from canister.api.records import FilesystemRemoveInputRecord
    from canister.client.errors import ClientError

    async def remove(client: Canister) -> list[str]:
        model = await _named(client, name)
        if model["is_loaded"] and not force:
            raise ClientError(f"{model['path']} is loaded; unload it first (canister models unload), or give --force")
        files = [model["path"]] if model["problem"] and not model["architecture"] else None
        files = files or (await client.model(model["path"]))["files"]
        if model["is_loaded"]:
            await client.unload_model()
        for file in files:
            await client.filesystem_remove(FilesystemRemoveInputRecord(filename=file))
        return files

    for file in _run(remove, network, canister, api_key, anonymous, data_dir):
        print(f"removed {file}")


@models_app.command("pull")
def pull_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="https://…/model.gguf, or hf:user/repo[:quantization].", show_default=False
        ),
    ],
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="SHA-256 that the file must have.", show_default=False)
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where it is downloaded to. [default: below $XDG_CACHE_HOME]", show_default=False
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the download there afterwards.")] = False,
    load: Annotated[bool, typer.Option("--load", help="Load it afterwards.")] = False,
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """Download a model and put it into the canister.

    Its path there is models/NAME. An interrupted download or upload continues where it stopped, and both are checked by
    SHA-256. The hub is HF_ENDPOINT, else huggingface.co; HF_TOKEN opens private repositories.
    """
    from canister.cli.shared import pulling

    remote = pulling.find(source, sha256)

    async def pull(client: Canister) -> str:
        names = [f"{FOLDER}/{file.name}" for file in remote.files]
        await client.models(limit=1)  # refuses before the download a caller who may not put it there
        if await _are_there(client, remote):
            print(f"{names[0]} is there already")
        else:
            await _bring(client, remote, folder or _cache_folder(), keep=keep)
        if load:
            await _load(client, ["--model", names[0]])
        return names[0]

    path = _run(pull, network, canister, api_key, anonymous, data_dir)
    print(f"loaded {path}" if load else f"to load it: canister models load {path.removeprefix(f'{FOLDER}/')}")


async def _bring(client: Canister, remote: Remote, folder: Path, *, keep: bool) -> None:
    """Download the files, check them, and upload them."""
    from canister.cli.shared import pulling
    from canister.client import transfer
    from canister.errors import BadRequest
    from canister.model_file.parts import read_model

    with ProgressReport("download") as report:
        files = await asyncio.to_thread(pulling.fetch, remote, folder, report.advance)
    try:
        read_model(files[0])
    except BadRequest as error:
        for file in files:  # if it were kept, it would be taken for a model another time
            file.unlink(missing_ok=True)
        raise transfer.TransferError(f"{files[0].name} is no model: {error}; thrown away") from error
    for file in files:
        name = f"{FOLDER}/{file.name}"
        with ProgressReport(name) as report:
            retries = transfer.Retries(on_retry=report.retry)
            done = await transfer.upload(client, file, name, progress=report.advance, retries=retries)
        print(f"pulled {name}: {done.filesize} bytes, sha256 {done.sha256}")
    if not keep:
        for file in files:
            file.unlink()


async def _are_there(client: Canister, remote: Remote) -> bool:
    """Does the canister have exactly these files?"""
    from canister.api.records import FileDetailsInputRecord
    from canister.client.errors import Refused

    for file in remote.files:
        if file.sha256 is None:
            return False
        try:
            details = await client.uploaded_file_details(FileDetailsInputRecord(filename=f"{FOLDER}/{file.name}"))
        except Refused:
            return False
        if details.value.filesha256 != file.sha256.lower():
            return False
    return True


def _cache_folder() -> Path:
    return user_folder("CACHE", ".cache") / "models"


# -- shared


async def _load(client: Canister, args: list[str]) -> None:
    from canister.api.records import InputRecord

    await client.call("load_model", InputRecord(args=args), timeout_seconds=LOAD_SECONDS)


def _run(
    work: Callable[[Canister], Awaitable[T]],
    network: str,
    canister: str,
    api_key: str | None,
    anonymous: bool,
    data_dir: Path | None,
) -> T:
    from canister.cli.shared.hints import told_who
    from canister.client.rest import Canister

    server = connection(network, api_key, anonymous, data_dir)

    async def run() -> T:
        async with Canister(server.url, canister, server.api_key) as client, told_who(client, canister):
            return await work(client)

    return asyncio.run(run())


async def _models(client: Canister) -> list[dict[str, Any]]:
    return [model async for model in client.all_models()]


async def _named(client: Canister, name: str) -> dict[str, Any]:
    """The model of this path or file name. ClientError names the existing ones."""
    from canister.client.errors import ClientError

    found = await _models(client)
    for key in (name, f"{FOLDER}/{name}", f"{FOLDER}/{name}.gguf"):
        for model in found:
            if model["path"] == key:
                return model
    fitting = [model for model in found if model["path"].rpartition("/")[2] in (name, f"{name}.gguf")]
    if len(fitting) == 1:
        return fitting[0]
    paths = [model["path"] for model in found]
    by_stem = {PurePosixPath(path).stem: path for path in paths}  # folder and suffix are the same for all
    near = nearest(PurePosixPath(name).stem, by_stem)
    hint = f"did you mean {by_stem[near]}?" if near else f"there are {', '.join(paths)}" if paths else "it has none"
    raise ClientError(f"the canister has no model {name!r}; {hint}")


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    parts = f" ({model['n_parts']} files)" if model["n_parts"] > 1 else ""
    kind = " ".join(word for word in (model["architecture"], model["quantization"]) if word)
    state = "loaded" if model["is_loaded"] else f"cannot be loaded: {model['problem']}" if model["problem"] else ""
    context = f"{model['n_ctx_train']:,}" if model["n_ctx_train"] else ""
    return model["path"] + parts, _bytes(model["bytes"]), kind, _count(model["n_params"]), context, state


def _details(told: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("model", told["path"]),
        ("title", told["title"]),
        ("state", "loaded" if told["is_loaded"] else "not loaded"),
        ("problem", told["problem"] or ""),
        ("files", f"{told['n_parts']}, {told['bytes']:,} bytes"),
        ("sha256", told["sha256"] or ""),
        ("architecture", told["architecture"]),
        ("quantization", told["quantization"]),
        ("parameters", f"{told['n_params']:,}"),
        ("shape", f"{told['n_layers']} layers, width {told['width']}"),
        ("attention", f"{told['n_heads']} heads, {told['n_kv_heads']} of KV"),
        ("vocabulary", f"{told['n_vocab']:,} tokens"),
        ("context", f"{told['n_ctx_train']:,} tokens" if told["n_ctx_train"] else "the file does not say"),
        ("KV memory", f"{told['kv_bytes_per_token']:,} bytes a token"),
        ("chat template", f"{len(told['chat_template']):,} characters" if told["chat_template"] else "none"),
    ]
    return [(label, value) for label, value in lines if value]


def _count(n: int) -> str:
    for size, unit in UNITS:
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n) if n else ""


def _bytes(n: int) -> str:
    for size, unit in UNITS:
        if n >= size:
            return f"{n / size:.3g} {'G' if unit == 'B' else unit}B"
    return f"{n} B"
