"""What the chains of a turn give, told as events. Pure: the same parts give the same events, whenever they are told."""

from __future__ import annotations

from typing import Any, Self

from canister.dispatch import Answered, Ingested, Piece
from canister.server.doors.openai.events import Begun, Done, Event, Finished, Progress, TextDelta, Timings, Usage
from canister.server.doors.openai.turn import Turn

Json = dict[str, Any]


class Telling:
    """Of one turn, from its start. begun: its first event.

    Survives as JSON without what it has told: a kept answer is told anew.
    """

    def __init__(self, turn: Turn, begun: Begun) -> None:
        self.begun = begun
        self._turn = turn
        self._n_unfinished = turn.n
        self._usage, self._timings = Usage(0, 0, 0), Timings()

    def to_json(self) -> Json:
        """The messages are left out: they are in the prompt."""
        turn = self._turn.model_copy(update={"messages": ()})
        begun = {"n_prompt": self.begun.n_prompt, "seed": self.begun.seed, "prompt": self.begun.prompt}
        return {"turn": turn.model_dump_json(exclude_defaults=True), "begun": begun}

    @classmethod
    def from_json(cls, told: Json) -> Self:
        return cls(Turn.model_validate_json(told["turn"]), Begun(**told["begun"]))

    def feed(self, choice: int, part: Ingested | Piece | Answered) -> list[Event]:
        """The events that a part becomes. Done comes when the last choice is answered."""
        match part:
            case Ingested():
                told = Progress(part.n_prompt, part.n_cached, part.n_done, part.seconds)
                return [told] if self._turn.wants_progress else []
            case Piece():
                return [TextDelta(choice, part.text, part.tokens)] if part.text else []
        finished = Finished(choice, part.finish, part.stop, part.n_generated)
        self._usage, self._timings = _with(self._usage, part), _timings(self._timings, part)
        self._n_unfinished -= 1
        return [finished] if self._n_unfinished else [finished, Done(self._usage, self._timings)]


def _with(usage: Usage, done: Answered) -> Usage:
    return Usage(
        done.n_prompt,
        done.n_cached,
        usage.n_generated + done.n_generated,
        0,
        usage.n_calls + done.n_calls,
        usage.instructions + done.instructions,
        usage.cycles + done.cycles,
    )


def _timings(timings: Timings, done: Answered) -> Timings:
    return Timings(
        done.n_cached,
        done.n_prompt - done.n_cached,
        timings.prompt_seconds + done.prompt_seconds,
        timings.n_generated + done.n_generated,
        timings.decode_seconds + done.decode_seconds,
    )
