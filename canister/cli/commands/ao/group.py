"""The group `canister ao`. What each command works with is imported when it runs."""

from __future__ import annotations

from canister.cli.commands.ao import models, serve, storage
from canister.cli.shared.app import App

ao_app = App("AO: what its programs, wallets and models need.")

ao_app.command()(serve.serve)
ao_app.command("keygen")(storage.keygen)
ao_app.command("publish")(storage.publish)
ao_app.command("convert")(models.convert_model)
ao_app.command("export")(models.export_model)
