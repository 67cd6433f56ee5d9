"""The `canister` command: the server, calls, files, settings, keys and identities, estimates.

A command imports what it works with when it runs: `canister --help` is quick, and loads no llama.cpp, SQLAlchemy or
FastAPI. Exit codes: 0 done, 1 refused or failed, 2 wrong usage. Answers go to stdout, all else to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from canister.cli import (
    backup,
    bench,
    call,
    candid,
    chat,
    doctor,
    estimate,
    files,
    fit,
    identity,
    keys,
    manage,
    network,
    probe,
    serve,
)

app = typer.Typer(
    help="A server that behaves as an Internet Computer canister running llama.cpp.",
    no_args_is_help=True,
    rich_markup_mode=None,
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
app.command()(chat.chat)
app.command()(files.upload)
app.command()(files.download)
app.command()(estimate.estimate)
app.command()(fit.fit)
app.command()(probe.probe)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(doctor.doctor)
app.command()(bench.bench)
app.add_typer(keys.api_key_app, name="api-key")
app.add_typer(identity.app, name="identity")
app.add_typer(manage.settings_app, name="settings")
app.add_typer(manage.ledger_app, name="ledger", hidden=True)
app.add_typer(network.app, name="network")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        app(args=_own(sys.argv[1:] if arguments is None else arguments), prog_name="canister")
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if not isinstance(error, _explained()):
            raise
        print(f"canister: {error}", file=sys.stderr)
        sys.exit(1)


def _own(arguments: Sequence[str]) -> list[str]:
    """A command line without what only dfx and icp need: after `alias dfx=canister` their lines work as they stand."""
    own = list(arguments)
    while len(own) > 1 and own[0].startswith(("-q", "-v", "--quiet", "--verbose")):
        own.pop(0)
    if own[:1] == ["canister"] and len(own) > 1:
        own.pop(0)
    return own


def _explained() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a person needs; any other one is a bug and shows its stack."""
    from canister.cli.local import ServerFailed
    from canister.client import ClientError
    from canister.errors import CanisterError, Trap
    from canister.transfer import TransferError

    return (ServerFailed, ClientError, TransferError, CanisterError, Trap, OSError)
