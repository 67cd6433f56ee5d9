"""The command-line flags of an InputRecord, parsed."""

from __future__ import annotations

from functools import lru_cache

from canister.api.records import InputRecord
from canister.flags.parse import RunArgs, parse

REMEMBERED = 256  # sets of flags; most calls of a chat have the same
REMEMBERED_CHARACTERS = 4096


def parse_args(arg: InputRecord) -> RunArgs:
    """The parsed flags. BadRequest (`Cannot parse args. …`) for flags that llama-completion would refuse."""
    if sum(map(len, arg.args)) > REMEMBERED_CHARACTERS:
        return parse(arg.args)
    return _parse_remembered(tuple(arg.args))


@lru_cache(REMEMBERED)
def _parse_remembered(args: tuple[str, ...]) -> RunArgs:
    return parse(args)
