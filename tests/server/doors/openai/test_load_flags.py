"""The flags of load_model are the defaults of the door's requests, as llama-server takes its command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.server.served import served

pytestmark = pytest.mark.anyio

ASK: list[Any] = [{"role": "user", "content": "Who are you?"}]
MODEL = ["--model", "models/llama-canister-tiny.gguf"]
TEMPLATE = "<{{ mood }}|{{ reasoning_effort }}|{{ enable_thinking }}>{{ messages[-1].content }}"


async def test_what_a_model_was_loaded_with(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True) as server, server.client() as client:

        async def load(*flags: str) -> None:
            (await client.post("/load_model", json={"args": [*MODEL, *flags]})).raise_for_status()

        async def ask(**body: Any) -> dict[str, Any]:
            answer = await client.post("/v1/chat/completions", json={"messages": ASK, "verbose": True, **body})
            told: dict[str, Any] = answer.raise_for_status().json()
            return told

        await load("--temp", "0", "-n", "3", "--logit-bias", "0+0")
        short = await ask()
        assert (short["usage"]["completion_tokens"], short["choices"][0]["finish_reason"]) == (3, "length")
        assert short["choices"][0]["message"]["content"] == (await ask())["choices"][0]["message"]["content"]
        assert (await ask(max_tokens=5))["usage"]["completion_tokens"] == 5

        variables = ("--chat-template-kwargs", '{"mood": "merry"}', "--reasoning-effort", "low", "--reasoning", "off")
        await load("--chat-template", TEMPLATE, "-n", "1", *variables)
        assert (await ask())["__verbose"]["prompt"] == "<merry|low|False>Who are you?"
        changed = await ask(chat_template_kwargs={"mood": "sad", "enable_thinking": True}, reasoning_effort="high")
        assert changed["__verbose"]["prompt"] == "<sad|high|True>Who are you?"
        props = (await client.get("/canisters/llama_cpp/props")).json()
        assert (props["chat_template"], props["chat_template_source"]) == (TEMPLATE, "flag")

        former = "{{ preserve_thinking }}|{{ clear_thinking }}"
        for flags, prompt in (((), "True|False"), (("--no-reasoning-preserve",), "False|True")):
            await load("--chat-template", former, "-n", "1", *flags)
            assert (await ask())["__verbose"]["prompt"] == prompt
        assert (await ask(chat_template_kwargs={"preserve_reasoning": True}))["__verbose"]["prompt"] == "True|False"

        await load("--chat-template", "chatml", "-n", "1")
        prompt = (await ask())["__verbose"]["prompt"]
        assert prompt == "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
