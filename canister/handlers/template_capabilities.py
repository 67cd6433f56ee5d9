"""What a chat template supports, found out by applying it to made-up conversations, as llama.cpp does.

The results are remembered by template. A template that fails for a conversation does not support it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from canister.api.rest_records import TemplateCapabilities
from canister.model_file.chat_template import TemplateError

if TYPE_CHECKING:
    from canister.model_file.chat_template import Message
    from canister.runtime.template_runner import TemplateRunner, TemplateSource

MAX_REMEMBERED = 64
MOST_SECONDS = 5.0  # for all talks; what is not known by then counts as not supported
NOTHING = TemplateCapabilities(
    supports_system_role=False,
    supports_tools=False,
    supports_tool_calls=False,
    supports_parallel_tool_calls=False,
    supports_preserve_reasoning=False,
    supports_thinking_switch=False,
)

_SYSTEM, _THOUGHT, _FIRST, _SECOND = "sys-7f3a", "tho-7f3a", "one_7f3a", "two_7f3a"
_USER: Message = {"role": "user", "content": "Hello"}
_SCHEMA = {"type": "object", "properties": {"x": {"type": "string", "description": "x"}}, "required": ["x"]}
_TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": _SCHEMA}}
    for name in (_FIRST, _SECOND)
]

_remembered: OrderedDict[TemplateSource, TemplateCapabilities] = OrderedDict()


async def capabilities(templates: TemplateRunner, source: TemplateSource) -> TemplateCapabilities:
    """source.template: not empty."""
    known = _remembered.get(source)
    if known is None:
        known, is_complete = await _found(templates, source)
        if is_complete:
            _remembered[source] = known
        while len(_remembered) > MAX_REMEMBERED:
            _remembered.popitem(last=False)
    return known


async def _found(templates: TemplateRunner, source: TemplateSource) -> tuple[TemplateCapabilities, bool]:
    """What it makes something of, and whether all was tried."""
    end = float("inf")

    async def shown(*messages: Message, tools: bool = False, **options: object) -> str:
        if time.monotonic() > end:
            return ""
        try:
            return await templates.render(source, messages, tools=_TOOLS if tools else None, options=options)
        except TemplateError:
            return ""

    if not await shown(_USER):
        return NOTHING, True  # it makes nothing of anything; a hostile one is not run again and again
    end = time.monotonic() + MOST_SECONDS
    one, two = await shown(*_called(_FIRST), tools=True), await shown(*_called(_FIRST, _SECOND), tools=True)
    plain = await shown(*_called(), tools=True)
    thought = {"role": "assistant", "content": "Hi", "reasoning_content": _THOUGHT}
    found = TemplateCapabilities(
        supports_system_role=_SYSTEM in await shown({"role": "system", "content": _SYSTEM}, _USER),
        supports_tools=_FIRST in await shown(_USER, tools=True),
        supports_tool_calls=one.count(_FIRST) > plain.count(_FIRST),
        supports_parallel_tool_calls=two.count(_SECOND) > plain.count(_SECOND),
        supports_preserve_reasoning=_THOUGHT in await shown(_USER, thought, _USER),
        supports_thinking_switch=await shown(_USER, enable_thinking=True) != await shown(_USER, enable_thinking=False),
    )
    return found, time.monotonic() <= end


def _called(*names: str) -> list[Message]:
    """A talk in which these tools were called."""
    calls = [
        {"id": f"call{name}", "type": "function", "function": {"name": name, "arguments": '{"x": "y"}'}}
        for name in names
    ]
    said: dict[str, object] = {"role": "assistant", "content": None if calls else "Hi"}
    if calls:
        said["tool_calls"] = calls
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "z"} for call in calls]
    return [_USER, said, *results, _USER]
