"""The group `canister ao`. What each command works with is imported when it runs."""

from __future__ import annotations

from canister.cli.commands.ao import console, models, money, processes, serve, storage
from canister.cli.shared.ao import IdCommand
from canister.cli.shared.app import App

ao_app = App("AO: what its programs, wallets and models need.")

ao_app.command()(serve.serve)
ao_app.command("spawn", cls=IdCommand)(processes.spawn)
ao_app.command("load", cls=IdCommand)(processes.load)
ao_app.command("send", cls=IdCommand)(processes.send)
ao_app.command("result", cls=IdCommand)(processes.result)
ao_app.command("eval", cls=IdCommand)(processes.evaluate)
ao_app.command("console", cls=IdCommand)(console.console)
ao_app.command("mint", cls=IdCommand)(money.mint)
ao_app.command("balance", cls=IdCommand)(money.balance)
ao_app.command("keygen")(storage.keygen)
ao_app.command("publish")(storage.publish)
ao_app.command("convert")(models.convert_model)
ao_app.command("export")(models.export_model)
