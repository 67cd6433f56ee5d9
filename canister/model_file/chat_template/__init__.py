"""A model's chat template: messages in, the prompt that the model was trained on out, as llama.cpp makes it."""

from canister.model_file.chat_template.errors import TemplateError
from canister.model_file.chat_template.messages import Message
from canister.model_file.chat_template.template import (
    CHATML,
    MAX_PROMPT_CHARACTERS,
    MAX_TEMPLATE_CHARACTERS,
    ChatTemplate,
)

__all__ = [
    "CHATML",
    "MAX_PROMPT_CHARACTERS",
    "MAX_TEMPLATE_CHARACTERS",
    "ChatTemplate",
    "Message",
    "TemplateError",
]
