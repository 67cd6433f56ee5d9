"""`canister estimate` without a file: what the next call, and the conversation, will cost on a running canister.

The canister itself answers, through `estimate_run`. It knows its model, its settings, and what the prompt cache holds.
"""

from __future__ import annotations

import asyncio
import json
import shlex

from canister.api.records import EstimateInput, EstimateRecord
from canister.cli.estimate.view import PARTS
from canister.cli.shared.connection import Connected
from canister.cli.shared.hints import told_who


def show_loaded(
    connected: Connected, canister: str, flags: str, prompt: str, answer_tokens: int | None, as_json: bool
) -> None:
    """Ask and print. Raises ClientError."""
    args = [*shlex.split(flags), "-p", prompt]
    record = asyncio.run(_ask(connected, canister, EstimateInput(args=args, answer_tokens=answer_tokens)))
    if as_json:
        document = record.model_dump(mode="json") | {"parts": {part.part: part.instructions for part in record.parts}}
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return
    print(
        f"the next call: {record.n_prompt_tokens:,} prompt tokens, {record.n_prompt_tokens_cached:,} of them cached\n"
    )
    for part in record.parts:
        print(f"{PARTS.get(part.part, part.part):<26} {part.instructions:>18,}")
    print(f"{'instructions':<26} {record.instructions:>18,}")
    limit = "none" if record.limit is None else f"{record.limit:,}"
    print(f"{'limit':<26} {limit:>18}")
    print(f"{'cycles':<26} {record.cycles:>18,}\n")
    print("the conversation from here on")
    for name, value in (
        ("calls", f"{record.calls:,}"),
        ("answer tokens per call", f"{record.tokens_per_call_first:,}, {record.tokens_per_call_last:,} at the end"),
        ("instructions", f"{record.total_instructions:,}"),
        ("cycles", f"{record.total_cycles:,}"),
        ("XDR, USD", f"{record.xdr:.6f}, {record.usd:.6f}"),
        ("main-network time", f"{record.seconds:.1f} s, within 20 %"),
    ):
        print(f"{name:<26} {value}")
    for guess in record.estimated:
        print(f"estimated: {guess}")


async def _ask(connected: Connected, canister: str, arg: EstimateInput) -> EstimateRecord:
    async with connected() as client, told_who(client, canister):
        reply = await client.call("estimate_run", arg)
    record = reply.value
    assert isinstance(record, EstimateRecord)
    return record
