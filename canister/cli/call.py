"""`canister call`: one message to a canister, the argument and the reply as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.options import LOCAL, Anonymous, ApiKey, Connection, DataDir, Network, connection

if TYPE_CHECKING:
    from canister.client import RawAnswer


def _method_names() -> list[str]:
    from canister.interface import METHODS

    return [method.name for method in METHODS]


def call(
    canister: Annotated[str, typer.Argument(metavar="CANISTER", help="Name or id of the canister.")],
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="A method of the interface.", autocompletion=_method_names)
    ],
    argument: Annotated[
        str | None,
        typer.Argument(metavar="JSON", help="The argument; - reads it from stdin.", show_default=False),
    ] = None,
    args_file: Annotated[
        Path | None,
        typer.Option("--args-file", metavar="FILE", help="Read the argument from a file.", show_default=False),
    ] = None,
    network: Network = LOCAL,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
) -> None:
    """Call a method and print its reply.

    Exit code 0 for Ok and for replies without a variant, 1 for Err and rejects, 2 for wrong usage.

    Example: canister call llama_cpp run_update '{"args": ["-p", "Hello", "-n", "8"]}'
    """
    from canister.client import UnknownMethod, find_method

    try:
        find_method(method)
    except UnknownMethod as error:
        raise typer.BadParameter(str(error)) from None
    value = _argument(argument, args_file)
    answer = asyncio.run(_call(connection(network, api_key, anonymous, data_dir), canister, method, value))
    print(json.dumps(answer.document, indent=2, ensure_ascii=False))
    problem = _problem(answer)
    if problem is not None:
        print(f"canister: {problem}", file=sys.stderr)
        raise typer.Exit(1)


async def _call(server: Connection, canister: str, method: str, value: object) -> RawAnswer:
    from canister.client import Canister

    async with Canister(server.url, canister, server.api_key) as client:
        return await client.call_raw(method, value)


def _argument(text: str | None, args_file: Path | None) -> object:
    """The JSON value that was given, None for no argument."""
    if text is not None and args_file is not None:
        raise typer.BadParameter("the argument comes either from the command line or from --args-file")
    source = "the argument"
    if args_file is not None:
        source = str(args_file)
        try:
            text = args_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"--args-file {args_file}: {error}") from None
    elif text == "-":
        source, text = "stdin", sys.stdin.read()
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{source} is not JSON: {error}") from None


def _problem(answer: RawAnswer) -> str | None:
    """What went wrong, in one line; None for an Ok."""
    match answer.document:
        case {"reject_code": code, "error_code": error_code, "reject_message": message}:
            return f"rejected ({code}, {error_code}): {message}"
        case {"Err": {"error": error, "status_code": status}}:
            return f"Err {status}: {error}"
        case {"Err": {"Other": str(text)}}:
            return f"Err: {text}"
        case {"Err": error}:
            return f"Err: {json.dumps(error)}"
    return None if answer.is_ok else f"HTTP {answer.http_status}"
