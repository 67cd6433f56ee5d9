"""Whether llguidance can bind a request; if not, which tool or schema prevents it, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from canister.chat_format.schemas import answer_of
from canister.chat_format.tools import Tool
from canister.errors import BadRequest

_NOISE = "failed to compile JSON schema: "
_EXCERPT = re.compile(r"\n *\d+ \|")  # of the grammar, which nobody wrote
SHOWN_CHARACTERS = 300

Written = Callable[[Sequence[Tool], "Mapping[str, object] | bool | None"], str]


def named(written: Written, tools: Sequence[Tool], schema: Mapping[str, object] | bool | None) -> str:
    """The grammar, written. BadRequest, with the name of the tool that this format has no way to write."""
    try:
        return _written(written, tools, schema)
    except BadRequest:
        for tool in tools:
            try:
                _written(written, [tool], None)
            except BadRequest as error:
                raise BadRequest(f"the parameters of the function {tool.name!r} cannot be bound: {error}") from None
        raise


def _written(written: Written, tools: Sequence[Tool], schema: Mapping[str, object] | bool | None) -> str:
    try:
        return written(tools, schema)
    except RecursionError:
        raise BadRequest("they refer to each other too deeply; make them smaller") from None


def check(grammar: str, tools: Sequence[Tool], schema: Mapping[str, object] | bool | None, written: Written) -> None:
    """BadRequest unless the grammar can be bound. written: the grammar of some of the tools and the schema."""
    if not (why := problem(grammar)):
        return
    for tool in tools:
        if told := problem(written([tool], None)):
            raise BadRequest(f"the parameters of the function {tool.name!r} cannot be bound: {told}; change the schema")
    if schema is not None and (told := problem(f"start: %json {json.dumps(answer_of(schema))}")):
        raise BadRequest(f"the schema of the answer cannot be bound: {told}; change the schema")
    raise BadRequest(f"the tools cannot be bound together: {why}; offer fewer, or with smaller schemas")


def problem(grammar: str) -> str:
    """Why llguidance rejects this grammar; "" if it does not."""
    from llguidance import LLMatcher  # not needed by those who only read outputs

    message = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))
    if not message or message.startswith("WARNING"):
        return ""
    told = _EXCERPT.split(message, maxsplit=1)[0].split(_NOISE, 1)[-1]
    return " ".join(line for line in told.split() if line.strip("^"))[:SHOWN_CHARACTERS]
