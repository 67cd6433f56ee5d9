"""The group `canister ao`. What each command works with is imported when it runs."""

from __future__ import annotations

from canister.cli.commands.ao import console, models, money, processes, serve, storage
from canister.cli.shared.app import App

ao_app = App("AO: what its programs, wallets and models need.")

ao_app.command()(serve.serve)
ao_app.command("spawn")(processes.spawn)
ao_app.command("load")(processes.load)
ao_app.command("send")(processes.send)
ao_app.command("result")(processes.result)
ao_app.command("eval")(processes.evaluate)
ao_app.command("console")(console.console)
ao_app.command("mint")(money.mint)
ao_app.command("balance")(money.balance)
ao_app.command("keygen")(storage.keygen)
ao_app.command("publish")(storage.publish)
ao_app.command("convert")(models.convert_model)
ao_app.command("export")(models.export_model)
