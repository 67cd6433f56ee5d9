"""The group `canister herd`. What each command works with is imported when it runs."""

from __future__ import annotations

from canister.cli.commands.herd import machine, money, serve, workers
from canister.cli.shared.app import App

herd_app = App("A herd: one canister on many workers, behind one door.")

herd_app.command()(serve.serve)
herd_app.command()(machine.machine)
herd_app.command()(workers.status)
herd_app.command()(workers.drain)
herd_app.command()(workers.restart)
herd_app.command()(workers.publish)
herd_app.command()(workers.unpublish)
herd_app.command()(money.mint)
herd_app.command()(money.transfer)
herd_app.command()(money.balance)
