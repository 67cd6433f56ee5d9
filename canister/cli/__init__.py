"""The `canister` command: the server, calls, files, settings, keys and identities, estimates.

A command imports what it works with when it runs: `canister --help` is quick, and loads no llama.cpp, SQLAlchemy or
FastAPI. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 141 when the reader of the output left. Answers go to
stdout, all else to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.main import get_command

from canister.cli.shared import about, habits
from canister.cli.shared.app import INTERRUPTED, READER_LEFT, App
from canister.cli.shared.lazy import Entry, LazyGroup


class Root(LazyGroup):
    """All commands. Those without a summary are words of dfx and icp, which no help lists."""

    entries = {  # noqa: RUF012  # nobody changes it
        "serve": Entry("commands.serve:serve", "Serve canisters over HTTP until SIGTERM or Ctrl-C."),
        "console": Entry("commands.console:console", "Open the web console in a browser, signed in."),
        "call": Entry("commands.call:call", "Call a method and print its reply."),
        "candid": Entry("commands.candid:candid", "Print the interface as a Candid file (.did)."),
        "id": Entry("commands.manage:canister_id", "Print the id of a canister."),
        "status": Entry("commands.manage:status", "Show a canister and its model: state, limits, cycles."),
        "top-up": Entry("commands.manage:top_up", "Give a canister cycles, which here come from nowhere."),
        "deposit-cycles": Entry("commands.manage:deposit_cycles"),
        "chat": Entry("commands.chat:chat", "Chat with a model, on the running server or a new one.", "ChatCommand"),
        "upload": Entry("commands.files:upload", "Upload a file to a canister, in chunks."),
        "download": Entry("commands.files:download", "Download a file from a canister, in chunks."),
        "receipt": Entry("commands.receipts:receipt", "Fetch receipts of your calls, as files."),
        "verify": Entry("commands.receipts:verify", "Check receipts: signature, chain, cost, tokens by a replay."),
        "audit": Entry("commands.audit:audit", "Look at a sample of a server's own calls, decoded again."),
        "estimate": Entry("estimate.command:estimate", "Estimate what a call or a conversation would cost on the IC."),
        "fit": Entry("commands.fit:fit", "Tell whether a model fits the Internet Computer."),
        "probe": Entry("commands.probe:probe", "Find by trial how many tokens fit into one call."),
        "backup": Entry("commands.backup:backup", "Copy all that a server holds into one file."),
        "restore": Entry("commands.backup:restore", "Make a data folder from a backup."),
        "doctor": Entry("commands.doctor:doctor", "Check a data folder, also while its server runs."),
        "bench": Entry("commands.bench:bench", "Measure tokens per second, in one call and cut into calls."),
        "ps": Entry("commands.ps:ps", "Show who runs what: calls, phase, tokens per second."),
        "logs": Entry("commands.logs:logs", "Show the last lines of the log, and with -f the next ones."),
        "key": Entry("shared.about:key", "Print the API key of a server's controller."),
        "version": Entry("shared.about:version", "Print versions: package, interface, llama.cpp."),
        "start": Entry("commands.local_network:start"),
        "stop": Entry("commands.local_network:stop"),
        "ping": Entry("commands.local_network:ping"),
        "deploy": Entry("commands.lifecycle:deploy"),
        "build": Entry("commands.lifecycle:build"),
        "chats": Entry("commands.chats:app", "Chats that a server keeps for you: list, show, remove."),
        "api-key": Entry("commands.keys:api_key_app", "API keys of REST callers: make, list, revoke."),
        "identity": Entry("commands.foreign:identity_app", "Identities: who signs the calls."),
        "models": Entry("commands.models:models_app", "Models in a canister: list, load, unload, pull."),
        "ao": Entry("commands.ao.group:ao_app", "AO: what its programs, wallets and models need."),
        "herd": Entry("commands.herd.group:herd_app", "A herd: one canister on many workers, behind one door."),
        "settings": Entry("commands.foreign:settings_app", "Settings of a canister."),
        "ledger": Entry("commands.foreign:ledger_app"),
        "network": Entry("commands.foreign:network_app", "The server, as an IC network."),
        "cycles": Entry("commands.foreign:cycles_app"),
        "canister": Entry("commands.foreign:canister_app"),
    }


app = App(
    cls=Root,
    help="A server that behaves as an Internet Computer canister running llama.cpp.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=about.version_option, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(_flushed(_run(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: Sequence[str]) -> int:
    """The exit code."""
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    try:
        command.main(args=habits.translated(command, arguments), prog_name="canister")
    except typer.BadParameter as error:  # of what stands in front of a command
        print(f"canister: {error}", file=sys.stderr)
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:  # before a command was there to take it
        return INTERRUPTED
    except Exception as error:
        if not isinstance(error, _explained()):
            raise
        print(f"canister: {error}", file=sys.stderr)
        return 1
    return 0


def _flushed(code: int) -> int:
    """Write what is still to be written; the reader may have left, the disk be full."""
    is_lost = code == READER_LEFT
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        is_lost, code = True, READER_LEFT
    except OSError as error:
        if code == 0:  # else it was told already
            print(f"canister: {error}", file=sys.stderr)
        is_lost, code = True, code or 1
    if is_lost:  # Python would try to write it once more at its end, and show a stack
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _explained() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a person needs; any other one is a bug and shows its stack."""
    from canister.client.errors import ClientError
    from canister.client.local_server import ServerFailed
    from canister.client.transfer import TransferError
    from canister.errors import CanisterError, Trap

    return (ServerFailed, ClientError, TransferError, CanisterError, Trap, OSError)
