"""Answers that end before the model would, at a place or after a time, as editors want them. Over events.

n_indent   at a line that is indented less, of which nothing is shown
seconds    of generation, once they are over, with the next line break
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from canister.api.tokens import Token
from canister.server.doors.openai.events import Begun, Done, Event, Finished, TextDelta, Timed, Timings, Usage


@dataclass(frozen=True, slots=True)
class EndLimits:
    """n_indent: blanks; 0: any line. seconds: None: as long as it takes. tells_time: the client wants Timed too."""

    n_indent: int = 0
    seconds: float | None = None
    tells_time: bool = False

    @property
    def are_any(self) -> bool:
        return self.n_indent > 0 or self.seconds is not None


async def ended_early(
    events: AsyncGenerator[Event], limits: EndLimits, now: Callable[[], float]
) -> AsyncGenerator[Event]:
    """The events of a turn with one choice, up to where the limits end it. Then its chain is closed.

    Timed gives the usage by then, so such a turn must want it.
    """
    lines, n_prompt, timings = _Lines(limits.n_indent), 0, Timings()
    began: float | None = None
    async with aclosing(events):
        async for event in events:
            match event:
                case TextDelta():
                    began = now() if began is None else began
                    text = lines.feed(event.text, event.tokens)
                    if text:
                        yield TextDelta(0, text, lines.taken_tokens())
                    is_late = limits.seconds is not None and "\n" in event.text and now() - began > limits.seconds
                    if lines.is_over or is_late:
                        yield Finished(0, "length", None, timings.n_generated)
                        yield Done(Usage(n_prompt, timings.n_cached, timings.n_generated), timings)
                        return
                    continue
                case Begun():
                    n_prompt = event.n_prompt
                case Timed():
                    timings = event.timings
                    if not limits.tells_time:
                        continue
                case Finished():
                    if text := lines.end():
                        yield TextDelta(0, text, lines.taken_tokens())
            yield event


@dataclass(slots=True)
class _Lines:
    """Text by lines, shown as long as no line is indented less than it should be.

    Blanks at the start of a line are held back until the line is decided. The first line does not count.
    """

    n_indent: int
    is_over: bool = False
    _held: str = ""  # blanks of a line that is not decided yet
    _is_decided: bool = True  # the line that is being written
    _tokens: list[Token] = field(default_factory=list)

    def feed(self, text: str, tokens: tuple[Token, ...] = ()) -> str:
        """What of it, and of what was held, is to be shown."""
        self._tokens += tokens
        if self.n_indent <= 0:
            return text
        shown = ""
        *whole, rest = text.split("\n")
        for part in [*(f"{line}\n" for line in whole), *([rest] if rest else [])]:
            if not self._is_decided:
                self._held += part
                blanks = len(self._held) - len(self._held.lstrip(" \t"))
                if blanks < min(self.n_indent, len(self._held)):
                    self.is_over, self._held = True, ""
                    return shown
                if blanks < self.n_indent:
                    continue  # nothing but blanks yet
                part, self._held, self._is_decided = self._held, "", True
            shown += part
            if part.endswith("\n"):
                self._is_decided = False
        return shown

    def end(self) -> str:
        """The text held back, at the end."""
        held, self._held = self._held, ""
        return held

    def taken_tokens(self) -> tuple[Token, ...]:
        """The tokens since the last time."""
        tokens, self._tokens = tuple(self._tokens), []
        return tokens
