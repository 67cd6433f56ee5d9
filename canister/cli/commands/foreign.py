"""The groups of commands in lines of dfx and icp, with what only those have. No help lists them.

Such a command has another name here, or is answered with a sentence.
"""

from __future__ import annotations

from canister.cli.commands import call, identity, lifecycle, local_network, logs, manage, network, request_status
from canister.cli.shared.app import App

identity_app, settings_app, ledger_app, network_app = identity.app, manage.settings_app, manage.ledger_app, network.app
cycles_app = App("Cycles, in the words of dfx.")
canister_app = App("In the words of dfx and icp.")
"""The group `canister`, for what stands behind that word."""

for command in (local_network.start, local_network.stop, local_network.ping):
    network_app.command(hidden=True)(command)

identity_app.command("get-principal", hidden=True)(identity.principal)
identity_app.command(hidden=True)(identity.use)
identity_app.command(hidden=True)(identity.whoami)
identity_app.command("remove", hidden=True)(identity.delete)

settings_app.command("show", hidden=True)(lifecycle.show_settings)
ledger_app.command("balance", hidden=True)(lifecycle.icp_balance)
cycles_app.command("balance")(lifecycle.balance)

canister_app.command()(lifecycle.build)
canister_app.command()(call.call)
canister_app.command()(lifecycle.create)
canister_app.command("delete")(lifecycle.delete_canister)
canister_app.command()(manage.deposit_cycles)
canister_app.command("id")(manage.canister_id)
canister_app.command()(lifecycle.info)
canister_app.command()(lifecycle.install)
canister_app.command("list")(lifecycle.list_canisters)
canister_app.command()(logs.logs)
canister_app.command()(lifecycle.metadata)
canister_app.command()(request_status.request_status)
canister_app.command("start")(lifecycle.start_canister)
canister_app.command()(manage.status)
canister_app.command("stop")(lifecycle.stop_canister)
canister_app.command()(manage.top_up)
canister_app.command()(manage.update_settings)
canister_app.add_typer(manage.settings_app, name="settings")
