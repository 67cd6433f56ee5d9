"""An output while it is read: its text, the events so far, and the tools that it may call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from canister.chat_format.output import EventBuilder
from canister.chat_format.reader import Reader
from canister.chat_format.tools import Tool

Outcome = Literal["whole", "not a call", "broken"]
"""whole: read to its end. not a call: it has no events. broken: it was begun, and does not continue."""


@dataclass(frozen=True, slots=True)
class Reading:
    reader: Reader
    output: EventBuilder
    tools: Mapping[str, Tool]

    def begin(self, name: str, call_id: str | None = None) -> None:
        """It is a call, of this tool."""
        self.reader.forget()
        self.output.begin_call(name, call_id)
