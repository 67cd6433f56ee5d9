"""The command-line flags of an InputRecord, parsed."""

from __future__ import annotations

from functools import lru_cache

from canister.api.records import InputRecord
from canister.flags.parse import RunArgs, parse

REMEMBERED = 256  # sets of flags; the calls of a chat mostly have the same
REMEMBERED_CHARACTERS = 4096


def parse_args(arg: InputRecord) -> RunArgs:
    """BadRequest (`Cannot parse args. …`) for what llama-completion would not take."""
    if sum(map(len, arg.args)) > REMEMBERED_CHARACTERS:
        return parse(arg.args)
    return _parse_remembered(tuple(arg.args))


@lru_cache(REMEMBERED)
def _parse_remembered(args: tuple[str, ...]) -> RunArgs:
    return parse(args)
