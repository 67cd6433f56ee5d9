"""A conversation through the door becomes the prompt that llama-server makes of it, by public templates."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.model_file.chat_template import public_templates
from tests.model_file.chat_template.conversations import CONVERSATIONS
from tests.model_file.chat_template.recordings import Prompt, load
from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

RECORDED = load()
# One of each way to treat texts, thoughts and calls; none that writes the date.
NAMES = (
    "Qwen-Qwen3-0.6B",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    "deepseek-ai-DeepSeek-V4",
    "google-gemma-4-31B-it",
)
# llama-server hands a single part of a system message on as a list, which this template writes as Python does.
BETTER_HERE = {("google-gemma-4-31B-it", "parts"): ("Be brief.", "[{'type': 'text', 'text': 'Be brief.'}]")}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("prompts"), with_model=True) as started:
        yield started


@pytest.mark.parametrize("name", NAMES)
async def test_conversations_with_a_public_template(server: Served, name: str) -> None:
    sources = public_templates.templates()
    if not sources:
        pytest.skip(public_templates.MISSING)
    flags = ["--model", "models/llama-canister-tiny.gguf", "--chat-template", sources[name], "--ctx-size", "8192"]
    async with server.client() as client:
        (await client.post("/load_model", json={"args": flags})).raise_for_status()
        texts = {talk: await _prompt(client, talk) for talk in RECORDED.prompts[name]}
    for (template, talk), (ours, theirs) in BETTER_HERE.items():
        if template == name:
            assert ours in texts[talk]
            texts[talk] = texts[talk].replace(ours, theirs)
    assert {talk: Prompt.of(text) for talk, text in texts.items()} == RECORDED.prompts[name]


async def _prompt(client: httpx.AsyncClient, talk: str) -> str:
    body = {**CONVERSATIONS[talk], "max_tokens": 1, "verbose": True}
    answer = await client.post("/v1/chat/completions", json=body)
    return str(answer.raise_for_status().json()["__verbose"]["prompt"])
