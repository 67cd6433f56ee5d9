"""ChatML, the chat form of the tiny model: special tokens, Jinja template, plain rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

END_OF_TEXT = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, START, END)

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One message of a chat."""

    role: Role
    content: str


def header(role: Role) -> str:
    return f"{START}{role}\n"


def render(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The same text that TEMPLATE gives, without a template engine."""
    text = "".join(f"{header(m.role)}{m.content}{END}\n" for m in messages)
    return text + header("assistant") if add_generation_prompt else text
