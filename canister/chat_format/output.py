"""Makes events of a reader's findings. Blanks at the edges of texts and thoughts are held back until they matter.

Blanks around a call are text only if more text follows it. Blanks around thoughts are dropped.
"""

from __future__ import annotations

from canister.chat_format import strict_json
from canister.chat_format.events import ParsedEvent, Text, Thought, ToolArguments, ToolBegin, ToolEnd


class EventBuilder:
    """Events in order. `take` returns those since the last time.

    splits_thoughts: False: thoughts are text, with their marks.
    """

    def __init__(self, splits_thoughts: bool = True) -> None:
        self._splits_thoughts = splits_thoughts
        self._events: list[ParsedEvent] = []
        self._blanks = ""
        self._follows_thought = False
        self._has_text = self._has_thought = self._has_call = False
        self._thought_blanks = ""
        self._is_in_thought = False
        self._arguments: list[str] = []

    def take(self) -> list[ParsedEvent]:
        events, self._events = self._events, []
        return events

    def text(self, text: str) -> None:
        if self._follows_thought:
            text = text.lstrip()
        said = text.rstrip()
        if not said:
            self._blanks += text
            return
        self._events.append(Text(self._blanks + said))
        self._blanks = text[len(said) :]
        self._follows_thought = False
        self._has_text = True

    def begin_thought(self, opened_by: str = "") -> None:
        if not self._splits_thoughts:
            self.text(opened_by)
            return
        if not self._has_text:
            self._blanks = ""
        self._thought_blanks = "\n\n" if self._has_thought else ""
        self._is_in_thought = False

    def thought(self, text: str) -> None:
        if not self._splits_thoughts:
            self.text(text)
            return
        if not self._is_in_thought:
            text = text.lstrip()
        said = text.rstrip()
        if not said:
            self._thought_blanks += text
            return
        self._events.append(Thought(self._thought_blanks + said))
        self._thought_blanks = text[len(said) :]
        self._is_in_thought = self._has_thought = True

    def end_thought(self, closed_by: str = "") -> None:
        if not self._splits_thoughts:
            self.text(closed_by)
            return
        self._follows_thought = True

    def begin_call(self, name: str, call_id: str | None = None) -> None:
        self._events.append(ToolBegin(name, call_id or None))
        self._arguments = []
        self._follows_thought = False
        self._has_call = True

    def arguments(self, text: str) -> None:
        if text:
            self._events.append(ToolArguments(text))
            self._arguments.append(text)

    def end_call(self) -> bool:
        """The call is whole, if its arguments are a JSON object."""
        try:
            arguments = strict_json.loads("".join(self._arguments))
        except ValueError:
            return False
        if not isinstance(arguments, dict):
            return False
        self._events.append(ToolEnd())
        return True

    def finish(self) -> None:
        """The output is over."""
        if self._blanks and not self._has_call:
            self._events.append(Text(self._blanks))
        self._blanks = ""
