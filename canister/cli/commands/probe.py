"""`canister probe`: find the trapping max_tokens of a canister by trial, and show it beside the prediction."""

from __future__ import annotations

import asyncio
import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared.connection import LOCAL, Connected, caller
from canister.cli.shared.hints import told_who
from canister.cli.shared.models import Flags, Json, read_flags
from canister.cli.shared.options import Anonymous, ApiKey, CanisterName, DataDir, IdentityName, Network, RootKey
from canister.defaults import DEFAULT_CANISTER

if TYPE_CHECKING:
    from canister.client.probe import Probed


def probe(
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="Contents of the prompt cache when the call begins.")
    ] = "Once upon a time",
    args: Flags = "",
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
    identity: IdentityName = None,
    root_key: RootKey = None,
    as_json: Json = False,
) -> None:
    """Find by trial how many tokens fit into one call.

    That is the run_update with the largest max_tokens that does not trap. The canister must have a model loaded and
    trap at its limit (canister serve --budget-policy trap), and the caller must be allowed to set_max_tokens. The
    prediction of estimate_run is shown beside the result. max_tokens and prompt caches are restored afterwards, but
    other callers should be quiet meanwhile.

    Example: canister probe --prompt "Who are you?" --args '--repeat-penalty 1.1'
    """
    read_flags(args)
    if not prompt:
        raise typer.BadParameter("--prompt is empty; the call that is tried goes on from some text")
    connected = caller(
        network, canister, api_key, anonymous, data_dir, identity=identity, prefers_rest=True, root_key=root_key
    )
    found = asyncio.run(_probe(connected, canister, shlex.split(args), prompt))
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _show(found)


async def _probe(connected: Connected, canister: str, flags: list[str], prompt: str) -> Probed:
    from canister.client.probe import Probe

    async with connected() as client, told_who(client, canister):
        return await Probe(client, flags=flags).find(prompt)


def _show(found: Probed) -> None:
    traps, predicted = (
        "never" if number is None else f"{number:,}" for number in (found.traps_at, found.predicted_traps_at)
    )
    print(f"after {found.cached_tokens:,} tokens in the prompt cache, in {found.n_trials} trials\n")
    print(f"{'':<22} {'found':>10} {'predicted':>10}")
    print(f"{'most tokens in a call':<22} {found.most_tokens:>10,} {found.predicted_most_tokens:>10,}")
    print(f"{'traps at max_tokens':<22} {traps:>10} {predicted:>10}")
