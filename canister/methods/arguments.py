"""The command-line flags of an InputRecord, parsed."""

from __future__ import annotations

from canister.engine.args import RunArgs, parse
from canister.records import InputRecord


def parse_args(arg: InputRecord) -> RunArgs:
    """BadRequest (`Cannot parse args. …`) for what llama-completion would not take."""
    return parse(arg.args)
