"""How a model speaks: which family of chat formats, how its tools are bound, how its output is read. Pure."""

from canister.chat_format.detect import form_named, form_of
from canister.chat_format.events import (
    Parsed,
    ParsedEvent,
    Text,
    Thought,
    ToolArguments,
    ToolBegin,
    ToolCall,
    ToolEnd,
    joined,
)
from canister.chat_format.form import BoundForm, Form, OutputParser

__all__ = [
    "BoundForm",
    "Form",
    "OutputParser",
    "Parsed",
    "ParsedEvent",
    "Text",
    "Thought",
    "ToolArguments",
    "ToolBegin",
    "ToolCall",
    "ToolEnd",
    "form_named",
    "form_of",
    "joined",
]
