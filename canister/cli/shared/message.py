"""The two halves of `canister call`: the argument as it was written, and the reply as it is to be printed.

Arguments are Candid text, its bytes in hex or in a file, or JSON. Replies are printed as icp and dfx do, or as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from canister.api.methods import Method
    from canister.client.errors import Rejected


class ArgsFormat(StrEnum):
    """How an argument is written. The last two are dfx's names for the first two."""

    candid = "candid"
    hex = "hex"
    bin = "bin"
    json = "json"
    idl = "idl"
    raw = "raw"


class OutputFormat(StrEnum):
    """How a reply is printed: candid, auto and pp broken into lines, idl on one, json in dfx's form."""

    auto = "auto"
    candid = "candid"
    text = "text"
    hex = "hex"
    json = "json"
    idl = "idl"
    raw = "raw"
    pp = "pp"


@dataclass(frozen=True, slots=True)
class Argument:
    """value: a record, or the JSON value where the argument was JSON; None for none."""

    value: object = None
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class CallReply:
    """is_err: the value stood inside `Err`."""

    method: Method
    value: Any
    is_err: bool


# -- arguments


def read_argument(
    method: Method, given: str | None, args_file: Path | None, args_format: ArgsFormat | None
) -> Argument:
    """The argument of a call. Raises typer.BadParameter, which says where the text is wrong."""
    from canister.api import codec
    from canister.api.examples import EXAMPLES
    from canister.errors import BadArgument

    if given is not None and args_file is not None:
        raise typer.BadParameter("the argument comes either from the command line or from --args-file")
    if given is None and args_file is None:
        return Argument(_no_argument(method))
    source, data = _source(given, args_file)
    kind = args_format
    if args_format is ArgsFormat.bin and args_file is None:
        raise typer.BadParameter("--args-format bin reads bytes, and those come from --args-file")
    try:
        if args_format is ArgsFormat.bin:
            return Argument(codec.decode_args(method, data))
        text = data.decode("utf-8").strip()
        kind = kind or _format_of(text)
        if kind is ArgsFormat.json:
            value = json.loads(text)
            codec.args_from_json(method, value)  # so that a mistake costs no round trip, and is wrong usage
            return Argument(value, is_json=True)
        if kind in (ArgsFormat.hex, ArgsFormat.raw):
            return Argument(codec.decode_args(method, bytes.fromhex(text.removeprefix("0x"))))
        return Argument(codec.args_from_text(method, text))
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{source} is not text: {error}") from None
    except BadArgument as error:
        example = (
            f" Such as: {json.dumps(EXAMPLES[method.name], ensure_ascii=False)}"
            if kind is ArgsFormat.json and method.name in EXAMPLES
            else ""
        )
        raise typer.BadParameter(f"{source}: {error}{example}") from None
    except ValueError as error:
        what = "JSON" if kind is ArgsFormat.json else "hex"
        raise typer.BadParameter(f"{source} is not {what}: {error}") from None


def _source(given: str | None, args_file: Path | None) -> tuple[str, bytes]:
    """The argument's name in messages, and its bytes."""
    if given == "-" or args_file == Path("-"):
        return "stdin", sys.stdin.read().encode("utf-8", "surrogateescape")
    if args_file is None:
        return "the argument", (given or "").encode("utf-8", "surrogateescape")
    try:
        return str(args_file), args_file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"--args-file {args_file}: {error}") from None


def _format_of(text: str) -> ArgsFormat:
    """Candid text begins with a parenthesis. JSON is what parses as JSON, or is meant to."""
    if text.startswith(("{", "[")):
        return ArgsFormat.json
    if text.startswith("("):
        return ArgsFormat.candid
    if text.lower().startswith("4449444c"):  # DIDL
        return ArgsFormat.hex
    try:
        json.loads(text)
    except ValueError:
        return ArgsFormat.candid  # a value without parentheses, as dfx takes it
    return ArgsFormat.json


def _no_argument(method: Method) -> object:
    """The argument when none is given: nothing, or a record whose fields may all be absent."""
    from canister.api import codec
    from canister.api.examples import EXAMPLES
    from canister.errors import BadArgument

    if method.arg is None:
        return None
    try:
        return codec.args_from_text(method, "(record {})")
    except BadArgument:
        if method.name not in EXAMPLES:  # the management canister's
            raise typer.BadParameter(f"{method.name} takes an argument: {codec.wanted(method)}") from None
        example = codec.args_to_text(method, codec.args_from_json(method, EXAMPLES[method.name]), width=10_000)
        raise typer.BadParameter(f"{method.name} takes an argument, for instance: {example}") from None


# -- replies


def print_reply(reply: CallReply, output: OutputFormat | None, *, as_document: bool, is_json: bool) -> int:
    """Print a reply and return the exit code.

    as_document: the JSON document of `icp --json`. is_json: the argument was JSON, so the answer is JSON if nothing
    else was asked for, and an Err then goes to stderr with exit code 1. To icp and dfx an Err is a reply like any
    other.
    """
    if as_document:
        print(json.dumps(_document(reply), ensure_ascii=False, separators=(",", ":")))
        return 0
    if output is None and is_json:
        print(json.dumps(_plain(reply), indent=2, ensure_ascii=False))
        problem = _problem(reply)
        if problem is not None:
            print(f"canister: {problem}", file=sys.stderr)
        return 0 if problem is None else 1
    print(_rendered(reply, output or OutputFormat.auto))
    return 0


def print_reject(error: Rejected, *, is_json: bool) -> int:
    """Print that a call failed as a whole, and return the exit code."""
    if is_json:
        document = {
            "reject_code": error.reject_code,
            "error_code": error.error_code,
            "reject_message": error.message,
        }
        print(json.dumps(document, indent=2, ensure_ascii=False))
    print(f"canister: rejected ({error.reject_code}, {error.error_code}): {error.message}", file=sys.stderr)
    return 1


def _rendered(reply: CallReply, output: OutputFormat) -> str:
    from canister.api import codec

    match output:
        case OutputFormat.hex | OutputFormat.raw:
            return _bytes(reply).hex()
        case OutputFormat.json:
            form = codec.reply_to_json(reply.method, reply.value, reply.is_err)
            return json.dumps(form, indent=2, ensure_ascii=False)
        case OutputFormat.idl:
            return codec.reply_to_text(reply.method, reply.value, reply.is_err, width=None)
        case OutputFormat.text:
            try:
                return _bytes(reply).decode("utf-8")
            except UnicodeDecodeError:
                raise typer.BadParameter(f"the reply is not UTF-8; in hex it is {_bytes(reply).hex()}") from None
    return codec.reply_to_text(reply.method, reply.value, reply.is_err)


def _document(reply: CallReply) -> dict[str, object]:
    from canister.api import codec

    return {
        "response_bytes": _bytes(reply).hex(),
        "response_text": None,
        "response_candid": codec.reply_to_text(reply.method, reply.value, reply.is_err),
    }


def _bytes(reply: CallReply) -> bytes:
    from canister.api import codec

    return codec.encode_reply(reply.method, reply.value, reply.is_err)


def _plain(reply: CallReply) -> object:
    """The JSON document that the REST door answers."""
    from canister.api.record_types import Variant
    from canister.client.rest import to_json

    value = to_json(reply.value)
    if isinstance(reply.value, Variant) and isinstance(value, dict):
        value = {tag: payload for tag, payload in value.items() if payload is not None}
    if reply.method.err is None:
        return value
    return {"Err" if reply.is_err else "Ok": value}


def _problem(reply: CallReply) -> str | None:
    """What went wrong, in one line; None for an Ok."""
    match reply:
        case CallReply(is_err=False):
            return None
        case CallReply(value=value) if hasattr(value, "status_code"):
            return f"Err {value.status_code}: {value.error}"
        case CallReply(value=value):
            return f"Err: {value.Other if value.Other is not None else value.StatusCode}"
