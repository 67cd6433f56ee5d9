"""`canister ao spawn`, `send`, `result`, `eval`, `load`: processes, and what is said to them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from canister.cli.shared.ao import (
    ProcessId,
    TagOption,
    To,
    WalletFile,
    bare_id,
    connected,
    shown_result,
    tags_of,
    tell_stranger,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the new process.", show_default=False)]


def spawn(
    name: Name = "",
    module: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Its module. [default: that of aos]", show_default=False, parser=bare_id),
    ] = None,
    on_boot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Lua that is run when the process begins.", show_default=False),
    ] = None,
    tag: TagOption = None,
    wallet: WalletFile = None,
    to: To = None,
) -> None:
    """Make a process of one's own, and print its id.

    Example: canister ao spawn --name joker --on-boot joker.lua
    """
    from canister.client.ao.network import MODULE

    tags = tags_of(tag)
    if name:
        tags.append(("Name", name))
    data = b""
    if on_boot is not None:
        data = on_boot.read_bytes()
        tags.append(("On-Boot", "Data"))
    with connected(to, wallet) as network:
        print(network.spawn(tags, data, module or MODULE))


def send(
    process: ProcessId,
    action: Annotated[str, typer.Option(metavar="NAME", help="The tag Action.", show_default=False)] = "",
    data: Annotated[str, typer.Option(metavar="TEXT", help="What it says.", show_default=False)] = "",
    tag: TagOption = None,
    as_json: AsJson = False,
    wallet: WalletFile = None,
    to: To = None,
) -> None:
    """Send a message to a process. Prints what came of it; its id goes to stderr.

    Example: canister ao send PROCESS --action Info
    """
    tags = [*([("Action", action)] if action else []), *tags_of(tag)]
    with connected(to, wallet) as network:
        message = network.send(process, tags, data.encode())
        print(message, file=sys.stderr)
        _show(network.result(process, message), as_json)


def result(
    process: ProcessId,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="Its id.", show_default=False, parser=bare_id)],
    as_json: AsJson = False,
    to: To = None,
) -> None:
    """Print what a process made of a message; waits until it has."""
    with connected(to) as network:
        _show(network.result(process, message), as_json)


def evaluate(
    process: ProcessId,
    code: Annotated[str, typer.Argument(metavar="CODE", help="Lua, such as '#Inbox'.", show_default=False)],
    as_json: AsJson = False,
    wallet: WalletFile = None,
    to: To = None,
) -> None:
    """Run Lua in a process of one's own, and print its value.

    Example: canister ao eval PROCESS 'Inbox[1].Data'
    """
    with connected(to, wallet) as network:
        told = network.result(process, network.send(process, [("Action", "Eval")], code.encode()))
        tell_stranger(network, process, told)
        _show(told, as_json)


def load(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Lua, in this order.", show_default=False)],
    process: Annotated[
        str,
        typer.Option(
            "--id",
            metavar="ID",
            help="A process of one's own. [default: a new one]",
            show_default=False,
            parser=bare_id,
        ),
    ] = "",
    name: Name = "",
    wallet: WalletFile = None,
    to: To = None,
) -> None:
    """Load Lua files into a process, and print its id.

    Example: canister ao load joker.lua --name joker
    """
    sources = [file.read_bytes() for file in files]
    with connected(to, wallet) as network:
        process = process or network.spawn([("Name", name or files[0].stem)])
        for file, source in zip(files, sources, strict=True):
            told = network.result(process, network.send(process, [("Action", "Eval")], source))
            if told.get("Error"):
                print(process, file=sys.stderr)
                raise SystemExit(_failure(f"{file}: {told['Error']}"))
            tell_stranger(network, process, told)
    print(process)


def _show(told: Mapping[str, object], as_json: bool) -> None:
    """An error of the program ends the command with 1."""
    if as_json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        text = shown_result(told)
        if text:
            print(text)
    if told.get("Error"):
        raise SystemExit(1 if as_json else _failure(str(told["Error"])))


def _failure(text: str) -> int:
    print(f"canister: {text}", file=sys.stderr)
    return 1
