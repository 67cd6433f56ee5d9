"""`canister audit`: a sample of a server's own calls is decoded again, by the server or from its stopped folder."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared.connection import LOCAL, connection
from canister.cli.shared.hints import told_who
from canister.cli.shared.models import Json
from canister.cli.shared.options import ApiKey, CanisterName, Network
from canister.cli.shared.settings import data_folder
from canister.defaults import DEFAULT_CANISTER
from canister.system.data_dir import LOCK, FolderLock

if TYPE_CHECKING:
    from canister.cli.verify.run import Outcome
    from canister.cli.verify.verdict import Verdict


def audit(
    sample: Annotated[
        str, typer.Option("--sample", metavar="SHARE", help="How many of the calls: 1%, 0.01, or all.")
    ] = "1%",
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="FILE",
            help="The GGUF, for a stopped server whose folder has it no more.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Look at the same calls again.", show_default=False)
    ] = None,
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Data folder: read if no server uses it, else for controller.key.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at a sample of a server's own calls, decoded again.

    Chain and cost are checked too. A running server decodes the calls again beside its other work, for its admins.
    Where none runs, its data folder is read, and they are decoded here.

    Exit code 1 when something is wrong.

    Example: canister audit --sample 5%
    """
    share, draw = _share(sample), random.Random(seed)
    folder = data_folder(data_dir)
    is_local = network == LOCAL and (data_dir is not None or not os.environ.get("CANISTER_URL"))
    if is_local and not _is_served(folder):
        outcome, told = _of_folder(folder, canister, share, draw, model, not as_json)
    else:
        if model is not None:
            raise typer.BadParameter("a running server has its model: --model goes with a stopped one's folder")
        outcome, told = _of_server(network, canister, api_key, data_dir, share, draw, not as_json)
    if as_json:
        calls = [verdict.document() for verdict in outcome.verdicts]
        document = {"ok": outcome.is_ok, "calls": calls, "faults": outcome.faults, "notes": outcome.notes}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        for line in (*(f"note: {note}" for note in outcome.notes), *(f"FAULT: {fault}" for fault in outcome.faults)):
            print(line)
        print("\n".join(["", *told]))
    if not outcome.is_ok:
        raise typer.Exit(1)


def _is_served(folder: Path) -> bool:
    return (folder / LOCK).is_file() and FolderLock(folder / LOCK).is_held()


def _of_server(
    network: str,
    canister: str,
    api_key: str | None,
    data_dir: Path | None,
    share: float,
    draw: random.Random,
    is_shown: bool,
) -> tuple[Outcome, list[str]]:
    from canister.cli.verify.audit import of_server, sampled, summary, together
    from canister.client.rest import Canister

    server = connection(network, api_key, False, data_dir)

    async def ask() -> tuple[Outcome, list[str]]:
        async with Canister(server.url, canister, server.api_key) as client, told_who(client, canister):
            head = await client.receipt_head()
            first, size = int(head["first"]), int(head["size"])
            verdicts: list[Verdict] = []
            async for verdict in of_server(client, sampled(share, first, size, draw), size):
                verdicts.append(verdict)
                _show(verdict, is_shown)
            outcome = together(verdicts)
            return outcome, [f"asked of {server.url}", *summary(outcome, size, first, True)]

    return asyncio.run(ask())


def _of_folder(
    folder: Path, canister: str, share: float, draw: random.Random, model: Path | None, is_shown: bool
) -> tuple[Outcome, list[str]]:
    from canister.cli.verify.audit import of_folder, sampled, summary
    from canister.ops.receipt_log import opened

    with opened(folder, canister) as log:
        outcome = asyncio.run(of_folder(log, sampled(share, log.first, log.size, draw), model))
        for verdict in outcome.verdicts:
            _show(verdict, is_shown)
        return outcome, [f"read from {folder}", *summary(outcome, log.size, log.first, False)]


def _show(verdict: Verdict, is_shown: bool) -> None:
    from canister.cli.verify.audit import told_of

    if is_shown:
        print(told_of(verdict), flush=True)


def _share(text: str) -> float:
    number = text.strip()
    try:
        share = 1.0 if number == "all" else float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise typer.BadParameter(f"--sample {text!r:.40} is no share of the calls: 1%, 0.01, all")
    return share
