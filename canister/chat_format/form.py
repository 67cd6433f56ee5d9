"""The form in which a model speaks: its tools bound by a grammar, its output read back. Pure.

bound = form_of(template).bind(tools, prompt=prompt)    # lark and triggers for the sampler
parser = bound.parser()                                 # feed it the output, piece by piece, then end it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from canister.chat_format import bindable
from canister.chat_format.events import ParsedEvent
from canister.chat_format.family import Family, WantedCalls, call_id, read_output, triggers_of, write_thought
from canister.chat_format.lark import Lark
from canister.chat_format.output import EventBuilder
from canister.chat_format.preamble import preamble
from canister.chat_format.reader import Reader
from canister.chat_format.reading import Reading
from canister.chat_format.schemas import answer_of
from canister.chat_format.tools import Tool, ToolChoice, chosen, tools_of
from canister.system.deep_stack import with_deep_stack


class OutputParser:
    """Reads one output. Pieces may be cut anywhere; the joined events are the same."""

    def __init__(self, family: Family, tools: Sequence[Tool], starts_in_thought: bool, splits_thoughts: bool) -> None:
        self._reader = Reader()
        self._output = EventBuilder(splits_thoughts)
        reading = Reading(self._reader, self._output, {tool.name: tool for tool in tools})
        self._steps = read_output(family, reading, starts_in_thought)
        next(self._steps, None)

    def feed(self, text: str) -> list[ParsedEvent]:
        """What the next piece of the output adds; text that may belong to a mark waits for more."""
        if text:
            self._reader.push(text)
            next(self._steps, None)
        return self._output.take()

    def end(self, is_cut: bool) -> list[ParsedEvent]:
        """The remaining events. is_cut: by a limit or by the client, not by the model."""
        self._reader.close(is_cut)
        for _ in self._steps:
            pass
        return self._output.take()


@dataclass(frozen=True, slots=True)
class BoundForm:
    """How one answer is bound and read.

    lark: the grammar, in llguidance's Lark; "" for none. triggers: texts from the first of which on it binds, that text
    included; none: from the first token on. quiet: (begin, end) of thoughts, in which no trigger counts; "" begins with
    the answer. special: texts of special tokens that must come through as text.
    """

    family: Family
    tools: tuple[Tool, ...]
    lark: str
    triggers: tuple[str, ...]
    special: tuple[str, ...]
    starts_in_thought: bool
    splits_thoughts: bool
    quiet: tuple[tuple[str, str], ...] = ()

    def parser(self) -> OutputParser:
        """A parser for one answer; each choice needs its own."""
        return OutputParser(self.family, self.tools, self.starts_in_thought, self.splits_thoughts)


@dataclass(frozen=True, slots=True)
class Form:
    """The form in which a template's models speak."""

    family: Family

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def told(self) -> tuple[str, list[list[str]]]:
        """Name and marks of thoughts, as JSON can hold them: `form_named` makes the same form of them."""
        return self.family.name, [[one.begin, one.end] for one in self.family.thoughts]

    def parser(
        self,
        tools: Sequence[object] = (),
        *,
        choice: ToolChoice = "auto",
        name: str | None = None,
        starts_in_thought: bool = False,
        splits_thoughts: bool = True,
    ) -> OutputParser:
        """A parser for an answer that was bound before; nothing is compiled."""
        return OutputParser(self.family, chosen(tools_of(tools), choice, name), starts_in_thought, splits_thoughts)

    def call_id(self, unique: str) -> str:
        """The id of a call, in the form that the template takes it back in; the same for the same text."""
        return call_id(self.family, unique)

    def preamble(self, tools: Sequence[object], *, choice: ToolChoice = "auto") -> str:
        """Text about tools for the system message, where the template has none; "" if it has."""
        if self.family.shows_tools or choice == "none" or not tools:
            return ""
        return preamble(tools_of(tools))

    def starts_in_thought(self, prompt: str) -> bool:
        """Has the prompt opened a thought that the model continues?"""
        end = prompt[-256:].rstrip()
        return any(end.endswith(one.begin.rstrip()) for one in self.family.thoughts)

    def bind(
        self,
        tools: Sequence[object] = (),
        *,
        choice: ToolChoice = "auto",
        name: str | None = None,
        many: bool = True,
        schema: Mapping[str, object] | bool | None = None,
        prompt: str = "",
        splits_thoughts: bool = True,
        special_tokens: Mapping[str, int] | None = None,
    ) -> BoundForm:
        """Bind an answer. Raises BadRequest for tools and schemas that cannot be bound, and names them.

        It compiles grammars: some milliseconds, more with many tools, so it belongs on a thread.

        tools: as the OpenAI API has them. name: the one that must be called, with choice "required". many: several
        calls may be made. schema: what an answer that is no call must obey. prompt: the rendered prompt, or its end.
        special_tokens: texts and ids of the tokens that the grammar's tokenizer knows as special; None: marks that may
        be such are named in the grammar, for the sampler to look up.
        """
        callable_tools = chosen(tools_of(tools), choice, name)
        starts_in_thought = self.starts_in_thought(prompt)
        lark, triggers = "", tuple[str, ...]()
        if callable_tools or schema is not None:
            must_call = choice == "required" or name is not None
            lark, triggers = self._bound(callable_tools, must_call, many, schema, starts_in_thought, special_tokens)
        return BoundForm(
            self.family,
            callable_tools,
            lark,
            triggers,
            self._special(),
            starts_in_thought,
            splits_thoughts,
            self._quiet(starts_in_thought) if triggers else (),
        )

    def _quiet(self, starts_in_thought: bool) -> tuple[tuple[str, str], ...]:
        """The thoughts in which a call's mark is talk. None where a call ends a thought."""
        thoughts = () if self.family.thought_openers else self.family.thoughts
        opened = tuple(("", one.end) for one in thoughts[:1] if starts_in_thought)
        return opened + tuple((one.begin, one.end) for one in thoughts)

    def _bound(
        self,
        tools: Sequence[Tool],
        must_call: bool,
        many: bool,
        schema: Mapping[str, object] | bool | None,
        starts_in_thought: bool,
        special_tokens: Mapping[str, int] | None,
    ) -> tuple[str, tuple[str, ...]]:
        family = self.family
        marks = self._special()

        def written(tools: Sequence[Tool], schema: Mapping[str, object] | bool | None) -> str:
            lark = Lark(special_tokens, marks)
            is_triggered = not must_call and schema is None
            bodies = [family.write_calls(WantedCalls(lark, tools, many, is_triggered))] if tools else []
            if schema is not None and not (tools and must_call):
                before, after = family.answer
                bodies.append(" ".join([lark.text(before), lark.json(answer_of(schema)), lark.text(after)]))
            if is_triggered:
                return lark.grammar(bodies[0])
            return lark.grammar(f"{write_thought(family, lark, starts_in_thought)} {lark.either(bodies)}")

        grammar = bindable.named(written, tools, schema)
        with_deep_stack(partial(bindable.check, grammar, tools, schema, written))
        return grammar, triggers_of(family, tools) if not must_call and schema is None else ()

    def _special(self) -> tuple[str, ...]:
        marks = [text for one in self.family.thoughts for text in (one.begin, one.end)]
        return tuple(dict.fromkeys([*self.family.special, *marks, *self.family.silent]))
