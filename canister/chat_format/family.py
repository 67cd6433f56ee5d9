"""A family of chat formats: how its models mark thoughts and calls. Most are text with marks, which is read here.

A family is a value: marks, a function that reads calls, and one that writes their grammar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from canister.chat_format.lark import SPACE, Lark
from canister.chat_format.marks import Mark, Marks
from canister.chat_format.reader import Steps, Take, never
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tools import Tool


@dataclass(frozen=True, slots=True)
class Thoughts:
    """The marks of thoughts. or_ends: further marks that end one."""

    begin: str
    end: str
    or_ends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WantedCalls:
    """The calls that a grammar is for. lark: receives its rules. many: several calls may be made.

    is_triggered: the grammar begins with one of the family's triggers, not with the calls.
    """

    lark: Lark
    tools: Sequence[Tool]
    many: bool
    is_triggered: bool = False


BARE = Mark(("",))
"""Stands for the mark of a call that has none."""

ReadCalls: TypeAlias = Callable[[Reading, Mark], Steps[Outcome]]
WriteCalls: TypeAlias = Callable[[WantedCalls], str]
ReadOutput: TypeAlias = Callable[["Family", Reading, bool], Steps[None]]
Trigger: TypeAlias = str | tuple[str, str]
"""A text, or what stands around the name of a tool."""


@dataclass(frozen=True, slots=True)
class Family:
    """name: told to people. openers: where calls may begin, in text. read_calls: what follows such a mark, which is
    taken already. write_calls: the body of a grammar for calls, opener included.

    triggers: texts from which the grammar binds. special: marks that may be special tokens, and must be seen.
    thoughts: the marks of thoughts; the first is the usual one. bare: characters that, where the answer begins, may
    begin a call without a mark. thought_openers: calls that may begin in a thought, which ends there. silent: marks
    that say nothing. answer: what stands around an answer that is no call. shows_tools: the template tells the model
    about tools, and how it calls them. id_characters: letters and digits that ids of calls must have, 0: any.
    read_output: for families whose output is more than text with marks.
    """

    name: str
    openers: tuple[Mark, ...]
    read_calls: ReadCalls
    write_calls: WriteCalls
    triggers: tuple[Trigger, ...]
    special: tuple[str, ...] = ()
    thoughts: tuple[Thoughts, ...] = ()
    bare: str = ""
    thought_openers: tuple[Mark, ...] = ()
    silent: tuple[str, ...] = ()
    answer: tuple[str, str] = ("", "")
    shows_tools: bool = True
    id_characters: int = 0
    read_output: ReadOutput | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Which templates speak a family: those that hold all of these texts, and none of those."""

    family: Family
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()

    def speaks(self, template: str) -> bool:
        return all(text in template for text in self.has) and not any(text in template for text in self.lacks)


def call_id(family: Family, unique: str) -> str:
    """The id of a call, the same for the same text. Mistral's templates refuse ids of another form than theirs."""
    digest = hashlib.sha256(unique.encode("utf-8", "surrogatepass")).hexdigest()
    return digest[: family.id_characters] if family.id_characters else f"call_{digest[:24]}"


def triggers_of(family: Family, tools: Sequence[Tool]) -> tuple[str, ...]:
    """The texts from which on a grammar for these tools binds."""
    return tuple(
        text
        for trigger in family.triggers
        for text in ([trigger] if isinstance(trigger, str) else [tool.name.join(trigger) for tool in tools])
    )


def read_output(family: Family, it: Reading, starts_in_thought: bool) -> Steps[None]:
    """Read a whole output: text, with thoughts and calls in it."""
    if family.read_output is not None:
        yield from family.read_output(family, it, starts_in_thought)
    else:
        yield from _read_text(family, it, starts_in_thought)
    it.output.finish()


def _read_text(family: Family, it: Reading, starts_in_thought: bool) -> Steps[None]:
    reader, output = it.reader, it.output
    openers = family.openers if it.tools else ()
    thoughts = {begin: one for one in family.thoughts for begin in (Mark((one.begin,)),)}
    silent = {Mark((one,)) for one in family.silent}
    marks = Marks.of(*openers, *thoughts, *silent)
    found: Mark | None = None
    if starts_in_thought and family.thoughts:
        yield from reader.closes(family.thoughts[0].begin)  # some models write it once more
        output.begin_thought()
        found = yield from _thought(family, it, family.thoughts[0])
    take: Take = output.text
    is_start = True
    while True:
        if found is None and is_start and family.bare and it.tools:
            found = yield from _bare(family, it)
        is_start = False
        if found is None:
            found = yield from reader.until(marks, take)
        if found is None:
            return
        take = output.text
        if found in silent:
            reader.forget()
            found = None
            continue
        if found in thoughts:
            reader.forget()
            output.begin_thought(thoughts[found].begin)
            found = yield from _thought(family, it, thoughts[found])
            is_start = True
            continue
        outcome = yield from family.read_calls(it, found)
        raw = reader.taken()
        is_marked, found = found != BARE, None
        if outcome == "broken":
            take = never
        elif outcome == "not a call":
            if is_marked and reader.is_over and reader.is_cut:
                yield from reader.rest()  # it might have become a call
            else:
                output.text(raw)


def _bare(family: Family, it: Reading) -> Steps[Mark | None]:
    """BARE, if a call may begin here, where the answer begins."""
    it.reader.keep()
    first = yield from it.reader.skip_space()
    if first and first in family.bare:
        return BARE
    it.output.text(it.reader.taken())
    return None


def _thought(family: Family, it: Reading, thoughts: Thoughts) -> Steps[Mark | None]:
    """A thought to its end, and the mark of the call that ended it, if one did."""
    end = Mark((thoughts.end,))
    ends = (end, *(Mark((one,)) for one in thoughts.or_ends))
    openers = family.thought_openers if it.tools else ()
    found = yield from it.reader.until(Marks.of(*openers, *ends), it.output.thought)
    if found is not None and found not in ends:
        it.output.end_thought()
        return found
    it.reader.forget()
    it.output.end_thought("" if found is None else thoughts.end)
    return None


def write_thought(family: Family, lark: Lark, starts_in_thought: bool) -> str:
    """The rule body for the thoughts that come first; "" for none."""
    if starts_in_thought and family.thoughts:
        return f"{lark.until(family.thoughts[0].end)} {SPACE}"
    if not family.thoughts:
        return ""
    bodies = [f"{lark.text(one.begin)} {lark.until(one.end)} {SPACE}" for one in family.thoughts]
    return lark.maybe(lark.either(bodies))
