"""`canister verify` and `canister receipt`: check receipts on this machine, and fetch those of one's own calls."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared.connection import LOCAL, connection
from canister.cli.shared.hints import told_who
from canister.cli.shared.models import Json
from canister.cli.shared.options import ApiKey, CanisterName, DataDir, Network
from canister.defaults import DEFAULT_CANISTER

if TYPE_CHECKING:
    from canister.cli.verify.run import Outcome


def verify(
    receipts: Annotated[
        list[Path], typer.Argument(metavar="RECEIPT…", help="Receipts in JSON or CBOR; several of a chat in any order.")
    ],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="FILE", help="The GGUF: checks the cost and decodes the calls again."),
    ] = None,
    root_key: Annotated[
        str | None,
        typer.Option("--root-key", "-k", metavar="HEX", help="The server's root key; else the one that it names."),
    ] = None,
    id: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="X-IC-Receipt as the answer had it; may be repeated.")
    ] = None,
    argument: Annotated[
        Path | None, typer.Option("--argument", metavar="FILE", help="JSON that the call was sent, for one receipt.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="JSON inside Ok or Err that came back.")
    ] = None,
    one_by_one: Annotated[
        bool,
        typer.Option("--one-by-one", help="Decode each token alone, as the server did, in any case."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check receipts: signature, chain, cost, tokens by a replay.

    Without their server: its certificate is in each, and the tokens are decoded again.

    It says what was established of each call, and no more. Without --model neither costs nor tokens are looked at.
    Exit code 1 when something is wrong.

    Example: canister verify *.receipt.json --model model.gguf
    """
    from canister.cli.verify.run import Asked, verify

    asked = Asked(
        receipts,
        model,
        _key(root_key),
        id or (),
        _json(argument, receipts),
        _json(output, receipts),
        one_by_one,
    )
    outcome = asyncio.run(verify(asked))
    if as_json:
        calls = [verdict.document() for verdict in outcome.verdicts]
        told = {"ok": outcome.is_ok, "calls": calls, "faults": outcome.faults, "notes": outcome.notes}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        _show(outcome)
    if not outcome.is_ok:
        raise typer.Exit(1)


def receipt(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID…", help="X-IC-Receipt or X-IC-Receipts of answers, or numbers.")
    ] = None,
    cache: Annotated[
        str | None, typer.Option("--cache", metavar="NAME", help="All calls on a prompt cache of yours.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the files go.", show_default=False)
    ] = Path(),
    since: Annotated[
        int, typer.Option("--since", metavar="N", help="Prove too that the first N records are still the first.")
    ] = 0,
    cbor: Annotated[bool, typer.Option("--cbor", help="CBOR instead of JSON.")] = False,
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Fetch receipts of your calls, as files.

    They are named `17.receipt.json`, and `canister verify` checks them.

    Each proves that the head of the one before is the beginning of its own, so together they show one chain.

    Example: canister receipt --cache my.cache && canister verify *.receipt.json --model model.gguf
    """
    from canister.client.rest import Canister

    ids = [id for text in ids or () for id in text.replace(",", " ").split()]
    if bool(ids) == (cache is not None):
        raise typer.BadParameter("either ids of receipts, or --cache NAME for all calls on a prompt cache")
    server = connection(network, api_key, False, data_dir)

    async def fetch() -> None:
        async with Canister(server.url, canister, server.api_key) as client, told_who(client, canister):
            wanted = ids or [row["id"] for row in reversed(await client.receipts(cache or ""))]
            size = since
            for one in wanted:
                data = await client.receipt(one, since=size, cbor=cbor)
                path = folder / f"{one.partition('-')[0]}.receipt.{'cbor' if cbor else 'json'}"
                path.write_bytes(data)
                print(path)
                size = _size_of(data)

    asyncio.run(fetch())


def _size_of(data: bytes) -> int:
    from canister.ic.receipts.document import read

    return read(data)[0].size


def _show(outcome: Outcome) -> None:
    for verdict in outcome.verdicts:
        print("\n".join(verdict.lines()))
    for note in outcome.notes:
        print(f"note: {note}")
    for fault in outcome.faults:
        print(f"FAULT: {fault}")
    n_bad = sum(not verdict.is_ok for verdict in outcome.verdicts)
    n = len(outcome.verdicts)
    print(f"\n{n} receipts, all hold" if outcome.is_ok else f"\n{n} receipts, {n_bad} of them wrong" if n_bad else "")


def _key(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        told = f"--root-key {text[:20]!r} is not in hex; `canister network status` prints it"
        raise typer.BadParameter(told) from None


def _json(path: Path | None, receipts: list[Path]) -> object:
    if path is None:
        return None
    if len(receipts) != 1:
        raise typer.BadParameter("--argument and --output go with one receipt")
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} is no JSON that can be read: {error}") from None
