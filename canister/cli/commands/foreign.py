"""The commands that only lines of dfx and icp have, and where they stand; no help lists them.

What such a line does has a name of its own here, or is answered in a sentence.
"""

from __future__ import annotations

import typer

from canister.cli.commands import call, identity, lifecycle, local_network, logs, manage, network, request_status
from canister.cli.shared import habits
from canister.cli.shared.app import App


def add_commands(app: typer.Typer) -> None:
    """Add them to the command line, its groups, and a group `canister` for what stands behind that word."""
    for command in (local_network.start, local_network.stop, local_network.ping):
        app.command(hidden=True)(command)
        network.app.command(hidden=True)(command)
    app.command(hidden=True)(lifecycle.deploy)
    app.command(hidden=True)(lifecycle.build)

    identity.app.command("get-principal", hidden=True)(identity.principal)
    identity.app.command(hidden=True)(identity.use)
    identity.app.command(hidden=True)(identity.whoami)
    identity.app.command("remove", hidden=True)(identity.delete)

    manage.settings_app.command("show", hidden=True)(lifecycle.show_settings)
    manage.ledger_app.command("balance", hidden=True)(lifecycle.icp_balance)
    cycles = App("Cycles, in the words of dfx.")
    cycles.command("balance")(lifecycle.balance)
    app.add_typer(cycles, name="cycles", hidden=True)

    group = App("In the words of dfx and icp.")
    group.command()(lifecycle.build)
    group.command()(call.call)
    group.command()(lifecycle.create)
    group.command("delete")(lifecycle.delete_canister)
    group.command()(manage.deposit_cycles)
    group.command("id")(manage.canister_id)
    group.command()(lifecycle.info)
    group.command()(lifecycle.install)
    group.command("list")(lifecycle.list_canisters)
    group.command()(logs.logs)
    group.command()(lifecycle.metadata)
    group.command()(request_status.request_status)
    group.command("start")(lifecycle.start_canister)
    group.command()(manage.status)
    group.command("stop")(lifecycle.stop_canister)
    group.command()(manage.top_up)
    group.command()(manage.update_settings)
    group.add_typer(manage.settings_app, name="settings")
    app.add_typer(group, name=habits.GROUP, hidden=True)
