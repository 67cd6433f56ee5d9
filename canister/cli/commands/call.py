"""`canister call`: one message to a canister, with the options of `icp canister call` and of dfx."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared import amounts, call_management, hints
from canister.cli.shared.complete import canister_names
from canister.cli.shared.connection import ANONYMOUS, LOCAL, Connected, agent_for, caller
from canister.cli.shared.message import (
    ArgsFormat,
    Argument,
    CallReply,
    OutputFormat,
    print_reject,
    print_reply,
    read_argument,
)
from canister.cli.shared.options import Anonymous, ApiKey, DataDir, Environment, IdentityName, Network, Rest, RootKey

if TYPE_CHECKING:
    from canister.api.methods import Method
    from canister.client.agent import Agent

# Options of icp and dfx that change nothing here, but stand in lines written for those commands.
IgnoredHidden = Annotated[str | None, typer.Option(hidden=True)]
IgnoredFlag = Annotated[bool, typer.Option("--update", "--always-assist", hidden=True)]


def _method_names() -> list[str]:
    from canister.api.methods import METHODS

    return [method.name for method in METHODS]


def call(
    canister: Annotated[
        str, typer.Argument(metavar="CANISTER", help="Name or id of the canister.", autocompletion=canister_names)
    ],
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="A method of the interface.", autocompletion=_method_names)
    ],
    argument: Annotated[
        str | None,
        typer.Argument(
            metavar="ARGUMENT",
            help="The argument, in Candid text or JSON; - reads it from stdin.",
            show_default=False,
        ),
    ] = None,
    args_file: Annotated[
        Path | None,
        typer.Option(
            "--args-file",
            "--argument-file",
            metavar="FILE",
            help="Read the argument from a file; - is stdin.",
            show_default=False,
        ),
    ] = None,
    args_format: Annotated[
        ArgsFormat | None,
        typer.Option(
            "--args-format",
            "--type",
            metavar="candid|hex|bin|json",
            help="Form of the argument. [default: guessed]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        OutputFormat | None,
        typer.Option(
            "--output",
            "-o",
            metavar="candid|text|hex|json",
            help="Form of the printed reply; dfx's idl, raw and pp work too. [default: candid, or REST's JSON if the "
            "argument is JSON]",
            show_default=False,
        ),
    ] = None,
    as_document: Annotated[
        bool, typer.Option("--json", help="Print the JSON of `icp --json`: response_bytes, response_candid.")
    ] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Print the call's cost on the Internet Computer on stderr.")
    ] = False,
    query: Annotated[bool, typer.Option("--query", help="Refuse to call an update method.")] = False,
    network: Network = LOCAL,
    identity: IdentityName = None,
    rest: Rest = False,
    root_key: RootKey = None,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
    environment: Environment = None,
    project_root_override: IgnoredHidden = None,
    candid: IgnoredHidden = None,
    update: IgnoredFlag = False,
    is_async: Annotated[bool, typer.Option("--async", hidden=True)] = False,
    wallet: IgnoredHidden = None,
    with_cycles: IgnoredHidden = None,
) -> None:
    """Call a method and print its reply.

    The call is signed; it goes over REST with --rest, --api-key or --cost.

    Exit code 0 for a reply, 1 for a reject, 2 for wrong usage. An Err also gives 1 if the argument was JSON and the
    reply is printed as JSON.

    Example: canister call llama_cpp run_update '(record { args = vec {"-p"; "Hello"; "-n"; "8"} })'

    The same: canister call llama_cpp run_update '{"args": ["-p", "Hello", "-n", "8"]}'
    """
    _check_cycles(canister, wallet, with_cycles)
    if canister == call_management.ID:
        row = call_management.find(method, as_query=query)
        given = read_argument(row, argument, args_file, args_format)
        agent = agent_for(network, ANONYMOUS if anonymous else identity, data_dir, root_key)
        sending = call_management.send(agent, row, given, output, as_document=as_document, as_query=query)
        raise typer.Exit(asyncio.run(sending))
    row = _method(method, query)
    given = read_argument(row, argument, args_file, args_format)
    if is_async:
        agent = agent_for(network, ANONYMOUS if anonymous else identity, data_dir, root_key)
        print(f"0x{asyncio.run(_submit(agent, canister, row, given)).hex()}")
        return
    connected = caller(
        network,
        canister,
        api_key,
        anonymous or identity == ANONYMOUS,
        data_dir,
        identity=None if identity == ANONYMOUS else identity,
        rest=rest,
        prefers_rest=cost,  # what a call cost stands in the headers of REST
        root_key=root_key,
    )
    raise typer.Exit(asyncio.run(_call(connected, canister, row, given, output, as_document, cost)))


def _check_cycles(canister: str, wallet: str | None, with_cycles: str | None) -> None:
    """Refuse what dfx does through a wallet canister."""
    if wallet is not None:
        raise typer.BadParameter("--wallet: there are no wallets here, the identity itself calls; leave it out")
    if with_cycles is not None and amounts.cycles(with_cycles, "--with-cycles"):
        raise typer.BadParameter(
            f"--with-cycles: calls bring no cycles here; canister top-up {canister} --amount {with_cycles} gives some"
        )


async def _submit(agent: Agent, canister: str, method: Method, given: Argument) -> bytes:
    """Send an update without waiting for its end. Returns the id of the request."""
    from canister.api import codec

    arg = codec.args_from_json(method, given.value) if given.is_json else given.value
    async with agent:
        return await agent.submit(await agent.id_of(canister), method.name, codec.encode_args(method, arg))


async def _call(
    connected: Connected,
    canister: str,
    method: Method,
    given: Argument,
    output: OutputFormat | None,
    as_document: bool,
    cost: bool,
) -> int:
    from canister.api import codec
    from canister.client.errors import Refused, Rejected
    from canister.client.ic import IcCanister

    is_json = given.is_json and output is None and not as_document
    help_text: str | None = None
    async with connected() as client:
        try:
            signs = given.is_json and isinstance(client, IcCanister)
            result = await client.call(method.name, codec.args_from_json(method, given.value) if signs else given.value)
            reply = CallReply(method, result.value, is_err=False)
            if cost and result.instructions is not None and result.cycles is not None:
                print_cost(result.instructions, result.cycles)
            elif cost:
                print("what a call cost is told over REST: give --api-key, or --identity controller", file=sys.stderr)
        except Refused as error:
            reply = CallReply(method, error.record, is_err=True)
            help_text = await hints.hint(client, canister, error.record)
        except Rejected as error:
            return print_reject(error, is_json=is_json)
    code = print_reply(reply, output, as_document=as_document, is_json=is_json)
    if help_text is not None:
        print(f"canister: {help_text}", file=sys.stderr)
    return code


def print_cost(instructions: int, cycles: int) -> None:
    """One line on stderr, so that the reply stays what it is."""
    from canister.metering import fees

    print(
        f"{instructions:,} instructions, {cycles:,} cycles ({fees.usd(cycles):.6f} USD), "
        f"{fees.seconds(instructions):.1f} s on the main network",
        file=sys.stderr,
    )


def _method(name: str, query: bool) -> Method:
    """The row of the interface table."""
    from canister.client.errors import UnknownMethod
    from canister.client.rest import find_method

    try:
        method = find_method(name)
    except UnknownMethod as error:
        raise typer.BadParameter(str(error)) from None
    if query and method.mode != "query":
        raise typer.BadParameter(
            f"`{name}` is an update method, not a query method. Run the command without `--query`."
        )
    return method
