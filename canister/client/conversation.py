"""A conversation over bounded update calls, as a client of the Internet Computer has to hold it.

    new_chat                                   once
    run_update -p <all that was said> -n 1     until nothing of the prompt remains: it goes in, part by part
    run_update -p "" -n <what is left>         until generated_eog: the answer comes out, part by part

Each turn sends the whole text so far. With the prompt cache, only what is new costs anything. Nothing is printed here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from canister.api.chain import Chain
from canister.api.records import InputRecord, RunOutputRecord
from canister.client.answer import CallStep, Message, run
from canister.client.errors import ClientError, Refused
from canister.client.result import Result
from canister.defaults import PROMPT_MARGIN_TOKENS

if TYPE_CHECKING:
    from canister.client.methods import MethodCalls

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_TOO_LONG = re.compile(r"prompt is too long \((\d+) tokens, max (\d+)\)")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text that a model is to continue. n_tokens: None where only the server knows."""

    text: str
    n_tokens: int | None = None


class Prompts(Protocol):
    """Makes one text of messages."""

    async def of(self, messages: Sequence[Message]) -> Prompt:
        """The prompt of these messages. Raises ClientError."""
        ...


@dataclass(slots=True)
class AnswerOptions:
    """How a conversation is held. May be changed between two questions.

    flags: llama.cpp flags of every call, for instance sampling. answer_tokens: the longest answer. drops_oldest: when
    the context is full, the oldest turns are left out, instead of ContextFull. streams: texts come while a call runs,
    which then reports no costs.
    """

    flags: Sequence[str] = ()
    answer_tokens: int = 512
    drops_oldest: bool = False
    streams: bool = True


class ContextFull(ClientError):
    """The conversation and the question do not fit the context. Nothing was sent."""

    def __init__(self, n_tokens: int, n_most: int, *, has_past: bool) -> None:
        what = "the conversation is full: with this question it has" if has_past else "this is too long: it has"
        way_out = "" if has_past else "; shorten it, or load the model with a larger --ctx-size"
        super().__init__(f"{what} {n_tokens:,} tokens, and there is room for {n_most:,}{way_out}")
        self.has_past = has_past


@dataclass(slots=True)
class Conversation:
    """One chat: the messages so far, and the prompt cache that holds it on the server.

    messages: all of it. n_left_out: how many of the oldest messages, besides the system prompt, the model no longer
    sees.
    n_ctx: tokens that it may have, if known. n_tokens: tokens after the last call.
    """

    canister: MethodCalls
    cache: str
    prompts: Prompts
    options: AnswerOptions
    n_ctx: int | None = None
    messages: list[Message] = field(default_factory=list)
    n_tokens: int = 0
    n_left_out: int = 0
    is_full: bool = False

    async def open(self) -> RunOutputRecord:
        """Tell the canister that a chat begins."""
        result: Result[RunOutputRecord] = await self.canister.call("new_chat", self._input())
        return result.value

    async def close(self) -> None:
        """Remove what the canister keeps of the conversation."""
        await self.canister.call("remove_prompt_cache", self._input())

    async def ask(self, question: str) -> AsyncGenerator[str | CallStep]:
        """Ask and get the answer: its text as it comes, and a CallStep behind each call.

        A caller who stops listening keeps the answer so far. A question that gets no answer, because it was refused or
        the server went away, does not count.
        """
        asked: list[Message] = [*self.messages, {"role": USER, "content": question}]
        answer, is_answered = "", False
        self.is_full = False
        try:
            async with aclosing(self._answer(asked)) as parts:
                async for part in parts:
                    if isinstance(part, str):
                        answer += part
                    yield part
            is_answered = True
        finally:
            if is_answered or answer:
                self.messages = [*asked, {"role": ASSISTANT, "content": answer}]

    async def _answer(self, asked: Sequence[Message]) -> AsyncGenerator[str | CallStep]:
        """The calls of one answer, without the oldest turns if those have to make room."""
        n_left_out = self.n_left_out
        while True:
            seen = _without_oldest(asked, n_left_out)
            try:
                chain = Chain(await self._prompt(seen), self.cache, self.options.answer_tokens, self.options.flags)
                async with aclosing(run(self.canister, chain, streams=self.options.streams)) as parts:
                    async for part in parts:
                        if not isinstance(part, str):
                            self.n_left_out = n_left_out
                            self._count(part.record)
                        yield part
                self.is_full = chain.finish == "full"
                return
            except Refused as error:
                found = _TOO_LONG.search(str(error))
                if found is None:
                    raise
                full = ContextFull(int(found[1]), int(found[2]), has_past=_has_past(seen))
            except ContextFull as error:
                full = error
            if not (self.options.drops_oldest and full.has_past):
                raise full
            n_left_out += _n_in_oldest_turn(seen)

    async def _prompt(self, asked: Sequence[Message]) -> str:
        prompt = await self.prompts.of(asked)
        if prompt.n_tokens is not None and self.n_ctx is not None:
            n_most = self.n_ctx - PROMPT_MARGIN_TOKENS
            # When turns are dropped, leave room for an answer of some length, not of four tokens.
            n_wanted = min(self.options.answer_tokens, self.n_ctx // 4) if self.options.drops_oldest else 0
            has_past = _has_past(asked)
            if prompt.n_tokens > n_most or (has_past and prompt.n_tokens + n_wanted > self.n_ctx):
                raise ContextFull(prompt.n_tokens, n_most, has_past=has_past)
        return prompt.text

    def _count(self, record: RunOutputRecord) -> None:
        self.n_tokens = (record.n_prompt_tokens or 0) - (record.n_prompt_tokens_remaining or 0)
        self.n_tokens += record.n_tokens_generated or 0

    def _input(self, *args: str) -> InputRecord:
        return InputRecord(args=["--prompt-cache", self.cache, "--prompt-cache-all", *args])


def _has_past(messages: Sequence[Message]) -> bool:
    """Was anything said before the last question, besides the system prompt?"""
    return any(message["role"] != SYSTEM for message in messages[:-1])


def _without_oldest(messages: Sequence[Message], n: int) -> list[Message]:
    """All messages but the oldest n, keeping the system prompt."""
    system = [message for message in messages if message["role"] == SYSTEM]
    return system + [message for message in messages if message["role"] != SYSTEM][n:]


def _n_in_oldest_turn(messages: Sequence[Message]) -> int:
    """The number of messages of the first question and its answer."""
    roles = [message["role"] for message in messages if message["role"] != SYSTEM]
    return next((i for i in range(1, len(roles)) if roles[i] == USER), 1)
