"""`canister serve`: the options are the rows of `config.Settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from canister.cli.help import default_text
from canister.config import Settings


def _setting(name: str, *flags: str, metavar: str | None = None) -> Any:
    """The option of a setting; its text and default come from the row."""
    text = Settings.model_fields[name].description or ""
    if default_text(name):
        text += f" [default: {default_text(name)}]"
    flags = flags or (f"--{name.replace('_', '-')}",)
    return typer.Option(*flags, metavar=metavar, help=text, show_default=False)


def serve(
    host: Annotated[str | None, _setting("host", metavar="ADDRESS")] = None,
    port: Annotated[int | None, _setting("port", metavar="PORT")] = None,
    data_dir: Annotated[Path | None, _setting("data_dir", metavar="DIR")] = None,
    model: Annotated[Path | None, _setting("model", "-m", "--model", metavar="FILE")] = None,
    canister: Annotated[list[str] | None, _setting("canister", metavar="NAME")] = None,
    controller: Annotated[list[str] | None, _setting("controller", metavar="PRINCIPAL")] = None,
    slots: Annotated[int | None, _setting("slots", metavar="N")] = None,
    threads: Annotated[int | None, _setting("threads", metavar="N")] = None,
    max_body_bytes: Annotated[int | None, _setting("max_body_bytes", metavar="N")] = None,
    log_level: Annotated[str | None, _setting("log_level", metavar="LEVEL")] = None,
    log_format: Annotated[str | None, _setting("log_format", metavar="FORMAT")] = None,
    drain_seconds: Annotated[float | None, _setting("drain_seconds", metavar="SECONDS")] = None,
) -> None:
    """Serve canisters over HTTP until SIGTERM or Ctrl-C.

    Every setting can also stand in the environment (CANISTER_PORT=…) or in canister.toml of the working folder.
    A flag wins over the environment, the environment over the file.
    """
    from canister.cli.options import load_settings

    settings = load_settings(
        host=host,
        port=port,
        data_dir=data_dir,
        model=model,
        canister=canister or None,
        controller=controller or None,
        slots=slots,
        threads=threads,
        max_body_bytes=max_body_bytes,
        log_level=log_level,
        log_format=log_format,
        drain_seconds=drain_seconds,
    )

    from canister.server.app import run

    run(settings)
