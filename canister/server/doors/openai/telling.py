"""Events from the parts of a turn's chains. Pure: the same parts give the same events, whenever they are made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Self

from canister import chat_format
from canister.api.tokens import Token
from canister.chat_format.form import OutputParser
from canister.dispatch import Answered, Ingested, Piece, Scored
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finish,
    Finished,
    Progress,
    PromptScored,
    TextDelta,
    ThoughtDelta,
    Timed,
    Timings,
    ToolArguments,
    ToolBegun,
    ToolDone,
    Usage,
)
from canister.server.doors.openai.turn import Turn

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spoken:
    """In which form the model speaks, and whether its prompt has opened a thought."""

    form: chat_format.Form
    starts_in_thought: bool

    def parser(self, turn: Turn) -> OutputParser:
        return self.form.parser(
            turn.tools,
            choice=turn.tool_choice,
            name=turn.tool_name,
            starts_in_thought=self.starts_in_thought,
            splits_thoughts=turn.splits_thoughts,
        )

    def to_json(self) -> list[Any]:
        return [*self.form.told, self.starts_in_thought]

    @classmethod
    def from_json(cls, told: list[Any]) -> Self:
        family, thoughts, starts_in_thought = told
        return cls(chat_format.form_named(family, [(begin, end) for begin, end in thoughts]), starts_in_thought)


@dataclass(slots=True)
class _Choice:
    """parser: None: the output is text as it is. waiting: tokens whose text the parser holds back."""

    parser: OutputParser | None
    waiting: list[Token] = field(default_factory=list)
    n_calls: int = 0
    n_whole_calls: int = 0
    n_thought: int = 0


class Telling:
    """Of one turn, from its start. begun: its first event. spoken: None: the answer is text as it is.

    As JSON it leaves out what it has made so far, since the events of a kept answer are made anew.
    """

    def __init__(self, turn: Turn, begun: Begun, spoken: Spoken | None = None) -> None:
        self.begun = begun
        self._turn = turn
        self._spoken = spoken
        self._choices = [_Choice(None if spoken is None else spoken.parser(turn)) for _ in range(turn.n)]
        self._n_unfinished = turn.n
        self._usage, self._timings = Usage(0, 0, 0), Timings()
        self._began_at = 0.0  # to generate
        self._so_far = Timings()

    def to_json(self) -> Json:
        """Without the messages, which are in the prompt."""
        turn = self._turn.model_copy(update={"messages": ()})
        begun = {"n_prompt": self.begun.n_prompt, "seed": self.begun.seed, "prompt": self.begun.prompt}
        told: Json = {"turn": turn.model_dump_json(exclude_defaults=True), "begun": begun}
        if self._spoken is not None:
            told["reading"] = self._spoken.to_json()
        return told

    @classmethod
    def from_json(cls, told: Json) -> Self:
        spoken = Spoken.from_json(told["reading"]) if "reading" in told else None
        return cls(Turn.model_validate_json(told["turn"]), Begun(**told["begun"]), spoken)

    def feed(self, choice: int, part: Scored | Ingested | Piece | Answered) -> list[Event]:
        """The events that a part becomes. Done comes when the last choice is answered."""
        match part:
            case Ingested():
                self._so_far = Timings(part.n_cached, part.n_done - part.n_cached, part.seconds)
                self._began_at = perf_counter()
                told = Progress(part.n_prompt, part.n_cached, part.n_done, part.seconds)
                return [told] if self._turn.wants_progress else []
            case Scored(first, tokens):
                return [PromptScored(0, self._turn.n, first, tokens, self.begun.n_prompt)]
            case Piece():
                return self._timed(self._said(choice, part))
        return self._ended(choice, part)

    def _said(self, choice: int, piece: Piece) -> list[Event]:
        of = self._choices[choice]
        if of.parser is None:
            # Where the prompt's tokens are told, so are all others: also the one that ends an answer, without a text.
            is_told = piece.text or self._turn.n_prompt_logprobs is not None
            return [TextDelta(choice, piece.text, piece.tokens)] if is_told else []
        of.waiting += piece.tokens
        return self._parsed(choice, of.parser.feed(piece.text)) if piece.text else []

    def _ended(self, choice: int, done: Answered) -> list[Event]:
        of, events = self._choices[choice], list[Event]()
        if of.parser is not None:
            events = self._parsed(choice, of.parser.end(is_cut=done.finish == "length"))
        finish: Finish = "tool_calls" if done.finish == "stop" and of.n_whole_calls else done.finish
        events.append(Finished(choice, finish, done.stop, done.n_generated))
        self._usage, self._timings = _with(self._usage, done, of.n_thought, choice), _timings(self._timings, done)
        self._n_unfinished -= 1
        return events if self._n_unfinished else [*events, Done(self._usage, self._timings)]

    def _parsed(self, choice: int, found: Iterable[chat_format.ParsedEvent]) -> list[Event]:
        of, events = self._choices[choice], list[Event]()
        for one in found:
            tokens, of.waiting = tuple(of.waiting), []
            match one:
                case chat_format.Text(text):
                    events.append(TextDelta(choice, text, tokens))
                case chat_format.Thought(text):
                    of.n_thought += len(tokens)
                    events.append(ThoughtDelta(choice, text, tokens))
                case chat_format.ToolBegin(name, id):
                    events.append(ToolBegun(choice, of.n_calls, id or self._id(choice, of.n_calls), name))
                    of.n_calls += 1
                case chat_format.ToolArguments(text):
                    events.append(ToolArguments(choice, of.n_calls - 1, text))
                case chat_format.ToolEnd():
                    events.append(ToolDone(choice, of.n_calls - 1))
                    of.n_whole_calls += 1
        return events

    def _id(self, choice: int, index: int) -> str:
        """Of a call: another one in each turn, and the same one whenever this turn is told."""
        about = f"{self.begun.seed} {choice} {index} {self.begun.prompt}"
        assert self._spoken is not None
        return self._spoken.form.call_id(about)

    def _timed(self, events: list[Event]) -> list[Event]:
        if not self._turn.wants_timings or not events:
            return events
        n_generated = self._so_far.n_generated + sum(
            max(1, len(event.tokens)) for event in events if isinstance(event, TextDelta | ThoughtDelta)
        )
        self._so_far = replace(self._so_far, n_generated=n_generated, decode_seconds=perf_counter() - self._began_at)
        return [Timed(self._so_far), *events]


def _with(usage: Usage, done: Answered, n_thought: int, choice: int) -> Usage:
    """The prompt went in once: what was cached of it is told with the first choice."""
    return Usage(
        done.n_prompt,
        done.n_cached if choice == 0 else usage.n_cached,
        usage.n_generated + done.n_generated,
        usage.n_thought + n_thought,
        usage.n_calls + done.n_calls,
        usage.instructions + done.instructions,
        usage.cycles + done.cycles,
        usage.receipts + done.receipts,
    )


def _timings(timings: Timings, done: Answered) -> Timings:
    n_cached = done.n_cached if not timings.n_prompt else timings.n_cached
    return Timings(
        n_cached,
        done.n_prompt - n_cached,
        timings.prompt_seconds + done.prompt_seconds,
        timings.n_generated + done.n_generated,
        timings.decode_seconds + done.decode_seconds,
    )
