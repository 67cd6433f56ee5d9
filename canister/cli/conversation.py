"""A conversation over bounded update calls, as a client of the Internet Computer has to hold it.

    new_chat                                   once
    run_update -p <all that was said> -n 1     until nothing of the prompt remains: it goes in, part by part
    run_update -p "" -n <what is left>         until generated_eog: the answer comes out, part by part

Each turn sends the whole text so far; the prompt cache makes that cost only what is new. No printing here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from canister.client import Canister, ClientError, Result
from canister.records import InputRecord, RunOutputRecord

END_OF_TURN = "<|im_end|>"  # ChatML: the shipped model's template, and Qwen's


@dataclass(frozen=True, slots=True)
class Step:
    """One run_update call. text: the piece of the answer that it gave; empty while the prompt goes in."""

    record: RunOutputRecord
    text: str
    milliseconds: float
    instructions: int | None
    cycles: int | None


class Stuck(ClientError):
    """A call brought the conversation no further."""


class Conversation:
    """One chat: what was said so far, and the prompt cache that holds it on the server.

    flags: llama.cpp flags of every call, for instance sampling. answer_tokens: longest answer.
    """

    def __init__(
        self,
        canister: Canister,
        cache: str,
        *,
        system: str = "",
        flags: Sequence[str] = (),
        answer_tokens: int,
    ) -> None:
        self._canister = canister
        self._cache = cache
        self._flags = tuple(flags)
        self._answer_tokens = answer_tokens
        self._text = _turn("system", system) if system else ""

    async def open(self) -> RunOutputRecord:
        """Tell the canister that a chat begins."""
        result: Result[RunOutputRecord] = await self._canister.call("new_chat", self._input())
        return result.value

    async def close(self) -> None:
        """Remove what the canister keeps of the conversation."""
        await self._canister.call("remove_prompt_cache", self._input())

    async def ask(self, question: str) -> AsyncGenerator[Step]:
        """Say something and get the answer, call by call. Left early, what was answered until then counts."""
        prompt = f"{self._text}{_turn('user', question)}<|im_start|>assistant\n"
        answer = ""
        try:
            async for step in self._ingest(prompt):
                yield step
            async for step in self._generate():
                answer += step.text
                yield step
        finally:
            self._text = f"{prompt}{answer}{END_OF_TURN}\n"

    async def _ingest(self, prompt: str) -> AsyncGenerator[Step]:
        remaining: int | None = None
        while remaining != 0:
            step = await self._run(prompt, 1)
            now_remaining = step.record.n_prompt_tokens_remaining or 0
            if now_remaining == remaining:
                raise Stuck(f"The canister takes no more of the prompt; {remaining} of its tokens remain.")
            remaining = now_remaining
            # The token that is sampled once the prompt is in is not kept: the next call gives it again.
            yield Step(step.record, "", step.milliseconds, step.instructions, step.cycles)

    async def _generate(self) -> AsyncGenerator[Step]:
        left = self._answer_tokens
        while left > 1:  # a call that ends at -n has sampled one token more than it counts
            step = await self._run("", left)
            yield step
            n_generated = step.record.n_tokens_generated or 0
            if step.record.generated_eog or n_generated == 0:  # 0: the context is full
                return
            left -= n_generated

    async def _run(self, prompt: str, n_predict: int) -> Step:
        # --no-escape: what a person types is meant as it is, a backslash too.
        arg = self._input("--no-escape", "-p", prompt, "-n", str(n_predict), *self._flags)
        start = time.perf_counter()
        result: Result[RunOutputRecord] = await self._canister.call("run_update", arg)
        milliseconds = 1000 * (time.perf_counter() - start)
        return Step(result.value, result.value.output, milliseconds, result.instructions, result.cycles)

    def _input(self, *args: str) -> InputRecord:
        return InputRecord(args=["--prompt-cache", self._cache, "--prompt-cache-all", *args])


def _turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}{END_OF_TURN}\n"
