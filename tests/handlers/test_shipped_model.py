"""The model that comes with the project: the file is the right one, and it answers its listed questions, in calls."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import CHAT_MODEL, GREEDY, Harness, canister_in

pytestmark = pytest.mark.anyio

QUESTIONS = json.loads((CHAT_MODEL.parent / "questions.json").read_text(encoding="utf-8"))["questions"]
TOKENS_PER_CALL = 20


@pytest.fixture(scope="module")
async def chatty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path_factory.mktemp("chatty")) as harness:
        await harness.load(CHAT_MODEL)
        await harness.limit(TOKENS_PER_CALL)
        yield harness


async def answer(harness: Harness, conversation: str, question: str) -> tuple[str, str]:
    """The answer to a question, and the conversation with both; the prompt cache knows what came before."""
    prompt = f"{conversation}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    record = await harness.run(prompt, *GREEDY, "-sp")
    while record.n_prompt_tokens_remaining:
        record = await harness.run(prompt, *GREEDY, "-sp")
    text = record.output
    while not record.generated_eog:
        record = await harness.run("", *GREEDY, "-sp")
        text += record.output
        assert len(text) < 4000, f"{question!r} has no end"
    assert record.conversation == prompt + text
    return text.removesuffix("<|im_end|>"), record.conversation + "\n"


def test_the_file_is_the_one_that_was_checked() -> None:
    wanted, name = (CHAT_MODEL.parent / "SHA256SUMS").read_text(encoding="utf-8").split()
    assert Path(name).name == CHAT_MODEL.name
    assert hashlib.sha256(CHAT_MODEL.read_bytes()).hexdigest() == wanted
    assert CHAT_MODEL.stat().st_size < 8_000_000


def test_some_thirty_questions_are_listed() -> None:
    assert len(QUESTIONS) >= 30
    assert any(entry.get("turns") and "name" in entry["question"] for entry in QUESTIONS)


@pytest.mark.parametrize("entry", QUESTIONS, ids=lambda entry: entry["id"])
async def test_a_listed_question(chatty: Harness, entry: dict[str, object]) -> None:
    await chatty.call("remove_prompt_cache", {"args": ["--prompt-cache", "prompt.cache"]})
    conversation = f"<|im_start|>system\n{entry['system']}<|im_end|>\n" if "system" in entry else ""
    for turn in entry.get("turns", ()):  # type: ignore[attr-defined]
        _, conversation = await answer(chatty, conversation, turn)
    text, _ = await answer(chatty, conversation, str(entry["question"]))
    missing = [wanted for wanted in entry["expect"] if not re.search(wanted, text)]  # type: ignore[attr-defined]
    assert not missing, text
