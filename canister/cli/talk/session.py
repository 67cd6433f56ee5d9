"""A person at a terminal, or a pipe, and the conversation that they are in.

The answer goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from canister.cli.talk import view
from canister.cli.talk.again import Shown, when_back
from canister.cli.talk.choices import Choices, NoChoice
from canister.cli.talk.commands import CommandKind, help_text, meant
from canister.cli.talk.named import NamedChats, cache_of
from canister.client.conversation import ASSISTANT, SYSTEM, USER, AnswerOptions, ContextFull, Conversation
from canister.client.errors import ClientError, Unreachable

if TYPE_CHECKING:
    from canister.cli.talk.lines import LineEditor
    from canister.client.answer import Message
    from canister.client.conversation import Prompts
    from canister.client.methods import MethodCalls

SHOWN_AGAIN_CHARACTERS = 500  # of each message, of a conversation that is taken up


@dataclass(frozen=True, slots=True)
class ChatBackend:
    """Where a conversation is held. n_ctx: tokens of the context, if known. named: where it is kept, if it is."""

    canister: MethodCalls
    prompts: Prompts
    n_ctx: int | None = None
    named: NamedChats | None = None


@dataclass(slots=True)
class ChatOptions:
    """How a person wants the conversation. is_raw: texts go to the model as they are. thinks: if the model can."""

    system: str = ""
    choices: Choices = field(default_factory=Choices)
    shows_calls: bool = False
    drops_oldest: bool = False
    is_raw: bool = False
    thinks: bool = True


class Session:
    """Whoever has one closes it."""

    def __init__(self, runner: asyncio.Runner, backend: ChatBackend, options: ChatOptions) -> None:
        self._runner = runner
        self._backend = backend
        self._options = options
        self._conversation: Conversation | None = None
        self._name: str | None = None  # of the conversation, where it is kept
        self._is_kept = True  # all that was said so far

    def resume(self, name: str) -> None:
        """Take up a kept chat; "" for the one written last. Raises ClientError."""
        self._runner.run(self._resume(name))

    def ask(self, question: str) -> None:
        """One question, one answer. Raises ClientError."""
        try:
            self._runner.run(self._ask(question))
        except ContextFull as error:
            if not error.has_past:
                raise
            raise ClientError(f"{error}; --keep-system leaves the oldest turns out") from error

    def talk(self, lines: LineEditor) -> None:
        """Question and answer, until the person leaves."""
        view.say("/help lists what can be typed; Ctrl-C stops an answer, Ctrl-D leaves")
        if self._conversation is not None:
            self._show_last_turn(self._conversation)
        while True:
            try:
                typed = meant(lines.next())
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                view.say("\n/quit or Ctrl-D leaves")
                continue
            if typed.problem:
                view.say(typed.problem)
            elif typed.command is None:
                if typed.text:
                    self._guarded(partial(self._ask_and_count, typed.text))
            elif typed.command.kind == "quit":
                return
            else:
                self._guarded(partial(self._do, typed.command.kind, typed.text))

    def close(self) -> None:
        """Leave nothing behind on the server but what is kept."""
        self._runner.run(self._close())

    # -- what can be typed

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except KeyboardInterrupt:
            view.say("\n(stopped)")
        except ContextFull as error:
            way_out = "; /new begins another conversation, /keep-system leaves the oldest turns out"
            view.say(f"canister: {error}{way_out if error.has_past else ''}")
        except ClientError as error:
            view.say(f"canister: {error}")

    def _ask_and_count(self, question: str) -> None:
        left_out = 0 if self._conversation is None else self._conversation.n_left_out
        self._runner.run(self._ask(question))
        if self._conversation is None:
            return
        more = self._conversation.n_left_out - left_out
        if more:
            view.say(f"(the {more} oldest messages were left out to make room)")
        view.say(view.context_line(self._conversation))

    def _do(self, kind: CommandKind, text: str) -> None:
        match kind:
            case "help":
                view.say(help_text())
            case "new":
                self._runner.run(self._leave())
                view.say("a new conversation begins")
            case "forget":
                self._runner.run(self._forget())
                view.say("forgotten; a new conversation begins")
            case "calls":
                self._options.shows_calls = not self._options.shows_calls
                if self._conversation is not None:
                    self._conversation.options = self._answer_options()
                view.say(f"calls are {'shown' if self._options.shows_calls else 'hidden'}")
            case "context":
                conversation = self._conversation
                view.say("(nothing was said yet)" if conversation is None else view.context_line(conversation))
            case "system":
                self._set_system(text)
            case "keep-system":
                self._options.drops_oldest = not self._options.drops_oldest
                if self._conversation is not None:
                    self._conversation.options = self._answer_options()
                how = "the oldest turns are left out" if self._options.drops_oldest else "it ends there"
                view.say(f"when the context is full, {how}")
            case "set":
                self._set(text)
            case _:
                raise AssertionError(kind)

    def _set_system(self, text: str) -> None:
        if not text:
            view.say(self._options.system or "(no system prompt)")
            return
        self._options.system = text
        if self._conversation is not None:
            said = [message for message in self._conversation.messages if message["role"] != SYSTEM]
            self._conversation.messages = [{"role": SYSTEM, "content": text}, *said]
        view.say("the system prompt is set")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not name:
            view.say(self._options.choices.told())
            return
        try:
            self._options.choices.set(name, value.strip())
        except NoChoice as error:
            view.say(str(error))
            return
        if self._conversation is not None:
            self._conversation.options = self._answer_options()
        view.say(f"{name} is {value.strip()}")

    # -- the conversation

    async def _ask(self, question: str) -> None:
        shows_calls = self._options.shows_calls
        shown = Shown(is_raw=self._options.is_raw, is_silent=shows_calls)
        is_away = False
        try:
            await when_back(self._backend.canister, self._turn(question, shown))
            print(shown.text.strip() if shows_calls else "", flush=True)
        except ClientError as error:
            is_away = isinstance(error, Unreachable)
            if shown.text and not shows_calls:
                print(flush=True)
            raise
        finally:
            conversation = self._conversation
            if conversation is not None and _is_spoken(conversation):
                await self._keep(conversation, is_away=is_away)
            else:  # the next question begins, and names, the conversation
                with contextlib.suppress(ClientError):
                    await self._leave()

    def _turn(self, question: str, shown: Shown) -> Callable[[], Coroutine[None, None, None]]:
        """Asks the question and shows the answer; done again, from what was said before it on."""
        before: list[Message] | None = None

        async def turn() -> None:
            nonlocal before
            conversation = self._conversation or await self._begin(question)
            if before is None:
                before = conversation.messages
            conversation.messages = before
            shown.begin()
            if self._options.shows_calls:
                view.note(view.TABLE_HEAD)
            async with contextlib.aclosing(conversation.ask(question)) as parts:
                number = 0
                async for part in parts:
                    if isinstance(part, str):
                        shown.add(part)
                        continue
                    number += 1
                    if self._options.shows_calls:
                        view.note(view.table_row(number, part))

        return turn

    async def _begin(self, question: str) -> Conversation:
        named = self._backend.named
        self._name = None if named is None else await named.new_name(question)
        cache = f"chat-{secrets.token_hex(8)}" if self._name is None else cache_of(self._name)
        conversation = self._new_conversation(cache)
        if self._options.system:
            conversation.messages = [{"role": SYSTEM, "content": self._options.system}]
        opened = await conversation.open()
        if self._options.shows_calls:
            view.note(f"{'new_chat':<18} {opened.output}")
        self._conversation = conversation
        return conversation

    def _new_conversation(self, cache: str) -> Conversation:
        backend = self._backend
        return Conversation(backend.canister, cache, backend.prompts, self._answer_options(), backend.n_ctx)

    def _answer_options(self) -> AnswerOptions:
        choices = self._options.choices
        # Of a call that is shown its costs are told as well, and its text at its end.
        return AnswerOptions(
            choices.flags(), choices.answer_tokens, self._options.drops_oldest, streams=not self._options.shows_calls
        )

    async def _resume(self, name: str) -> None:
        named = self._backend.named
        if named is None:
            raise ClientError(
                "there is no chat to go on with: chats of identities that sign are not kept; --api-key KEY goes on "
                "with those of a key"
            )
        if not name:
            name = await named.last() or ""
            if not name:
                raise ClientError("no chat is kept here yet")
        kept = await named.get(name)
        self._name = name
        self._options.choices.take(kept.settings)
        conversation = self._conversation = self._new_conversation(cache_of(name))
        conversation.messages = [message.model_dump(exclude_unset=True) for message in kept.messages]
        left_out = kept.settings.get("left-out")
        conversation.n_left_out = left_out if isinstance(left_out, int) else 0
        if self._options.system:
            self._set_system(self._options.system)
        else:
            said = (str(said["content"]) for said in conversation.messages if said["role"] == SYSTEM)
            self._options.system = next(said, "")
        view.say(f"going on with {name}, {len(conversation.messages)} messages")

    def _show_last_turn(self, conversation: Conversation) -> None:
        for message in conversation.messages[-2:]:
            if message["role"] in (USER, ASSISTANT):
                view.say(f"{'> ' if message['role'] == USER else ''}{_shortened(message)}")

    async def _keep(self, conversation: Conversation, *, is_away: bool = False) -> None:
        """After a question, whatever became of it; what cannot be kept now is kept with the next one, or at the end.

        is_away: that the server does not answer was told already.
        """
        named, name = self._backend.named, self._name
        if named is None or name is None:
            return
        settings: dict[str, object] = {**self._options.choices.chosen}
        if conversation.n_left_out:
            settings["left-out"] = conversation.n_left_out
        put = partial(named.put, name, conversation.messages, settings)
        self._is_kept = False
        try:
            await (put() if is_away else when_back(self._backend.canister, put))
            self._is_kept = True
        except ClientError as error:
            if not is_away:
                view.say(f"canister: this turn could not be kept: {error}")

    async def _leave(self) -> None:
        """End the conversation; it stays where it is kept."""
        if self._conversation is not None and not self._is_kept:
            await self._keep(self._conversation)
        is_kept, self._is_kept = self._is_kept, True
        conversation, self._conversation = self._conversation, None
        name, self._name = self._name, None
        if conversation is None:
            return
        if name is not None and _is_spoken(conversation):
            if is_kept:
                view.say(f"kept as {name}: canister chat --resume {name}")
        else:
            await conversation.close()

    async def _forget(self) -> None:
        conversation, self._conversation = self._conversation, None
        name, self._name = self._name, None
        if conversation is None:
            return
        if name is not None and self._backend.named is not None and _is_spoken(conversation):
            await self._backend.named.remove(name)
        else:
            await conversation.close()

    async def _close(self) -> None:
        # The cleanup timer of the canister removes what cannot be removed now.
        with contextlib.suppress(ClientError):
            await self._leave()


def _is_spoken(conversation: Conversation) -> bool:
    return any(message["role"] != SYSTEM for message in conversation.messages)


def _shortened(message: Message) -> str:
    text = str(message["content"]).strip()
    return text if len(text) <= SHOWN_AGAIN_CHARACTERS else f"{text[:SHOWN_AGAIN_CHARACTERS]} …"
