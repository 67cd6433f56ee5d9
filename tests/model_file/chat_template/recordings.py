"""Prompts that llama-server made of conversations, by its public templates. `record.py` writes the file.

A template's text is somebody else's, and so is most of a prompt: kept are its hash, its length, and its ends.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from canister.model_file.chat_template import ChatTemplate
from tests.model_file.chat_template.conversations import Body

PATH = Path(__file__).with_name("prompts.json.gz")
ENDS = 60  # characters
_ROLES = {"developer": "system"}


@dataclass(frozen=True)
class Prompt:
    """sha256 of its UTF-8, length in characters, its first and last characters. Or the error instead, and no hash."""

    sha256: str = ""
    length: int = 0
    begin: str = ""
    end: str = ""
    error: str = ""

    @classmethod
    def of(cls, text: str) -> Prompt:
        return cls(hashlib.sha256(text.encode()).hexdigest(), len(text), text[:ENDS], text[-ENDS:])


@dataclass(frozen=True)
class Recordings:
    """day: of the recording, since templates print it. templates: SHA-256 by name. prompts: by template and talk."""

    llama_server: str
    day: str
    bos_token: str
    eos_token: str
    adds_bos: bool
    templates: dict[str, str]
    prompts: dict[str, dict[str, Prompt]]


def load() -> Recordings:
    told: dict[str, Any] = json.loads(gzip.decompress(PATH.read_bytes()))
    told["prompts"] = {
        name: {talk: Prompt(**one) for talk, one in talks.items()} for name, talks in told["prompts"].items()
    }
    return Recordings(**told)


def save(recordings: Recordings) -> None:
    told = asdict(recordings)
    for talks in told["prompts"].values():
        for talk, one in talks.items():
            talks[talk] = {key: value for key, value in one.items() if value}
    text = json.dumps(told, ensure_ascii=False, indent=0, sort_keys=True)
    PATH.write_bytes(gzip.compress(text.encode(), mtime=0))


def rendered(template: ChatTemplate, body: Body, now: datetime) -> str:
    """The prompt of a body of llama-server's `/apply-template`, as the canister's renderer makes it.

    As there, a last message of the assistant is gone on with.
    """
    options = dict(body.get("chat_template_kwargs", {}))
    if "reasoning_effort" in body:
        options["reasoning_effort"] = body["reasoning_effort"]
    messages = [{**message, "role": _ROLES.get(message["role"], message["role"])} for message in body["messages"]]
    return template.render(
        messages,
        now=now,
        add_generation_prompt=body.get("add_generation_prompt", True),
        continue_final_message=messages[-1]["role"] == "assistant",
        tools=body.get("tools"),
        options=options,
    )
