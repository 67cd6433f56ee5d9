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

from canister.cli.commands import (
    backup,
    bench,
    call,
    candid,
    chat,
    chats,
    doctor,
    files,
    fit,
    foreign,
    identity,
    keys,
    logs,
    manage,
    models,
    network,
    probe,
    ps,
    serve,
)
from canister.cli.estimate import command as estimate_command
from canister.cli.shared import about, habits
from canister.cli.shared.app import INTERRUPTED, READER_LEFT, App, Group

app = App(
    cls=Group,
    help="A server that behaves as an Internet Computer canister running llama.cpp.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(call.call)
app.command()(candid.candid)
app.command("id")(manage.canister_id)
app.command()(manage.status)
app.command()(manage.top_up)
app.command(hidden=True)(manage.deposit_cycles)
app.command(cls=chat.ChatCommand)(chat.chat)
app.command()(files.upload)
app.command()(files.download)
app.command()(estimate_command.estimate)
app.command()(fit.fit)
app.command()(probe.probe)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(doctor.doctor)
app.command()(bench.bench)
app.command()(ps.ps)
app.command()(logs.logs)
app.command()(about.key)
app.command()(about.version)
app.add_typer(chats.app, name="chats")
app.add_typer(keys.api_key_app, name="api-key")
app.add_typer(identity.app, name="identity")
app.add_typer(models.models_app, name="models")
app.add_typer(manage.settings_app, name="settings")
app.add_typer(manage.ledger_app, name="ledger", hidden=True)
app.add_typer(network.app, name="network")


foreign.add_commands(app)


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
    from canister.client.local_server import ServerFailed
    from canister.client.rest import ClientError
    from canister.client.transfer import TransferError
    from canister.errors import CanisterError, Trap

    return (ServerFailed, ClientError, TransferError, CanisterError, Trap, OSError)
