"""One conversation with a tiny model, in the ways in which it must come out the same."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canister.api.records import RunOutputRecord
from tests.harness import Harness, canister_in, someone

N_ANSWER = 16  # tokens
PROMPT = " ".join(f"w{i * 7 % 150}" for i in range(40))  # longer than the sliding windows
OTHER_PROMPT = " ".join(f"w{i * 11 % 150}" for i in range(23))
FLAGS = ("--temp", "0.8", "--seed", "7", "--ignore-eos", "-sp")
SETTINGS: dict[str, Any] = {"threads": 1, "slots": 4, "ram_cache": 1 << 26}


@dataclass
class Chat:
    """A chat in calls of a few tokens."""

    harness: Harness
    prompt: str
    caller: str
    n_answered: int = 0
    conversation: str = ""
    is_read: bool = False

    async def call(self) -> None:
        prompt = "" if self.is_read else self.prompt
        record: RunOutputRecord = await self.harness.run(prompt, *FLAGS, caller=self.caller, cache="chat")
        self.is_read = not record.n_prompt_tokens_remaining
        self.n_answered += record.n_tokens_generated or 0
        self.conversation = record.conversation

    @property
    def is_over(self) -> bool:
        return self.n_answered >= N_ANSWER

    async def finish(self) -> None:
        while not self.is_over:
            await self.call()


async def whole(harness: Harness, prompt: str) -> str:
    """The conversation in one call, by somebody whose chats nobody else sees."""
    await harness.limit(0)
    record = await harness.run(prompt, "-n", str(N_ANSWER + 1), *FLAGS, caller=someone(9), cache=None)
    return record.conversation


def same(text: str, expected: str) -> bool:
    """Calls of a fixed size may end a few tokens later, or within a character."""
    text, expected = text.rstrip("\ufffd"), expected.rstrip("\ufffd")
    n = min(len(text), len(expected))
    return n > 0 and text[:n] == expected[:n]


async def killed(folder: Path, copy: Path, chat: Chat) -> tuple[str, int]:
    """The conversation, finished by another canister on what lies on the disk now; and how many files it tried."""
    shutil.copytree(folder, copy)
    async with canister_in(copy, **SETTINGS) as harness:
        await harness.canister.model.loaded()
        there = Chat(harness, chat.prompt, chat.caller, chat.n_answered, chat.conversation, chat.is_read)
        await there.finish()
        return there.conversation, harness.canister.model.trials.n_tried
