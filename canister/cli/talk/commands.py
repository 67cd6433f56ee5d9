"""What a person may type beside questions: a table of commands, and the meaning of a typed text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CommandKind = Literal["help", "new", "forget", "system", "keep-system", "set", "calls", "context", "quit"]


@dataclass(frozen=True, slots=True)
class Command:
    """words: all that mean it; the first is shown. argument: what may follow; "" for nothing."""

    kind: CommandKind
    words: tuple[str, ...]
    argument: str
    help: str


COMMANDS = (
    Command("help", ("/help", "/?"), "", "this list"),
    Command("new", ("/new", "/clear"), "", "begin another conversation; a kept one stays where it is"),
    Command("forget", ("/forget",), "", "remove this conversation from the server and begin another"),
    Command("system", ("/system",), "[TEXT]", "show or set the system prompt, from the next question on"),
    Command("keep-system", ("/keep-system",), "", "when the context is full, leave the oldest turns out, or no longer"),
    Command("set", ("/set",), "[NAME VALUE]", "show or set how answers are drawn, such as /set temp 0.7"),
    Command("context", ("/context",), "", "tokens used, of how many"),
    Command("calls", ("/calls",), "", "show or hide every call"),
    Command("quit", ("/quit", "/exit", "/bye"), "", "leave; so do Ctrl-D, exit, quit and bye"),
)
BARE = ("exit", "quit", "bye")  # by themselves

_BY_WORD = {word: command for command in COMMANDS for word in command.words}


@dataclass(frozen=True, slots=True)
class Typed:
    """command None: `text` is a question. With a command, it is what follows. problem: what is wrong with the line."""

    text: str
    command: Command | None = None
    problem: str = ""


def meant(text: str) -> Typed:
    """The meaning of a typed text. A question may begin with a slash if that is no command, or after a space."""
    stripped = text.strip()
    if stripped.lower() in BARE:
        return Typed("", _BY_WORD["/quit"])
    if not text.startswith("/"):
        return Typed(stripped)
    word, *rest = stripped.split(maxsplit=1)
    command = _BY_WORD.get(word.lower())
    if command is None:
        if rest:
            return Typed(stripped)
        return Typed("", problem=f"{word} is not known: /help lists what is; a space before it makes it a question")
    if rest and not command.argument:
        return Typed("", problem=f"{word} stands alone: /help")
    return Typed("".join(rest), command)


def help_text() -> str:
    rows = [(" ".join([", ".join(command.words), command.argument]).strip(), command.help) for command in COMMANDS]
    width = max(len(words) for words, _ in rows)
    lines = [f"{words:<{width}}  {told}" for words, told in rows]
    lines += [
        "",
        'Several lines: paste them, put """ before and after them, or end a line with \\.',
        "Ctrl-C stops an answer.",
    ]
    return "\n".join(lines)
