"""`canister bench`: how fast a canister is, the one that runs or one of its own with a given model."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared.connection import LOCAL, Connected, caller
from canister.cli.shared.hints import told_who
from canister.cli.shared.models import Json
from canister.cli.shared.options import Anonymous, ApiKey, CanisterName, DataDir, IdentityName, Network, RootKey
from canister.defaults import DEFAULT_CANISTER

if TYPE_CHECKING:
    from canister.client.bench import Speed, Workload
    from canister.client.local_server import LocalServer

MODEL_NAME = "models/model.gguf"
SPARE_TOKENS = 256  # of the context, beyond prompt and answer
TOKENS_PER_WORD = 3  # at most, in any usual vocabulary


def bench(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="GGUF for a server started for this, which also shows the cost of a restart. [default: the model "
            "loaded in --canister]",
            show_default=False,
        ),
    ] = None,
    prompt_words: Annotated[int, typer.Option(min=1, metavar="N", help="Length of the prompts.")] = 200,
    tokens: Annotated[int, typer.Option(min=2, metavar="N", help="Length of the answers.")] = 100,
    per_call: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of a call.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds, of which medians are shown.")] = 5,
    threads: Annotated[
        int, typer.Option(min=0, metavar="N", help="With FILE: threads of its server, as of `canister serve`.")
    ] = 0,
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
    identity: IdentityName = None,
    root_key: RootKey = None,
    as_json: Json = False,
) -> None:
    """Measure tokens per second, in one call and cut into calls.

    It also measures what a call costs beside its tokens, as one client over HTTP sees it. Other callers should be quiet
    meanwhile. The caller must be allowed to set_max_tokens.

    Example: canister bench model.gguf
    """
    from canister.client.bench import Workload

    if tokens % per_call or tokens == per_call:
        raise typer.BadParameter(f"--tokens {tokens} is no multiple of --per-call {per_call} that makes several calls")
    if file is not None and not file.is_file():
        raise typer.BadParameter(f"{file} is not a file")
    work = Workload(prompt_words, tokens, per_call, rounds)
    with ExitStack() as stack:
        server = None
        if file is None:
            connected = caller(
                network, canister, api_key, anonymous, data_dir, identity=identity, prefers_rest=True, root_key=root_key
            )
        else:
            server = stack.enter_context(_own_server(stack, canister, threads))
            connected = _client_of(server, canister)
        speed = asyncio.run(_measure(connected, canister, work, file, server))
    if as_json:
        print(json.dumps(asdict(speed), indent=2))
    else:
        _show(speed, work)


def _own_server(stack: ExitStack, canister: str, threads: int) -> LocalServer:
    from canister.client.local_server import LocalServer

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="canister-bench-"))
    flags = ("--canister", canister, "--slots", "2", "--threads", str(threads), "--instruction-limit", "none")
    return LocalServer(Path(folder), *flags)


def _client_of(server: LocalServer, canister: str) -> Connected:
    from canister.client.rest import Canister

    return lambda: Canister(server.url, canister, server.api_key)


async def _measure(
    connected: Connected, canister: str, work: Workload, file: Path | None, server: LocalServer | None
) -> Speed:
    from canister.api.records import InputRecord
    from canister.client import transfer
    from canister.client.bench import Bench

    async with connected() as client, told_who(client, canister):
        if file is None or server is None:
            return await Bench(client, work).measure()
        await transfer.upload(client, file, MODEL_NAME)
        n_ctx = str(work.prompt_words * TOKENS_PER_WORD + work.answer + SPARE_TOKENS)
        await client.load_model(InputRecord(args=["--model", MODEL_NAME, "--ctx-size", n_ctx]))

        def restart() -> None:
            server.stop()
            server.start()

        return await Bench(client, work).measure(restart)


def _show(speed: Speed, work: Workload) -> None:
    lines = [
        (f"prompt of {speed.n_prompt} tokens", f"{speed.ingested:,.1f} tok/s"),
        (f"{work.answer} tokens in one call", f"{speed.uninterrupted:,.1f} tok/s"),
        (f"{work.answer} tokens, {work.per_call} per call", f"{speed.in_calls:,.1f} tok/s"),
        ("  speed in calls / speed in one call", f"{speed.ratio:.3f} *"),
        (f"a call of {work.per_call} tokens", f"{speed.call_ms:,.1f} ms"),
        ("  what each further call adds", f"{speed.overhead_ms:,.1f} ms *"),
    ]
    if speed.restore_ms is not None:
        lines.append(("taking the chat up after a restart", f"{speed.restore_ms:,.1f} ms"))
    for what, figure in lines:
        number, star, _ = figure.partition(" *")
        print(f"{what:<40}{number:>16}{star}".rstrip())
    print(f"\nAll are medians of {work.rounds}. *: of what the two ways took one after the other, round by round;")
    print("it need not be the quotient or the difference of the two medians above.")
