"""How what was said becomes the text that a model goes on with."""

from __future__ import annotations

from collections.abc import Sequence

from canister.api.rest_records import ApplyTemplateOutput
from canister.client.answer import Message
from canister.client.conversation import Prompt
from canister.client.rest import Canister


class Templated:
    """The server applies the model's own chat template. thinks: told to templates of models that may."""

    def __init__(self, canister: Canister, *, thinks: bool = True) -> None:
        self._canister = canister
        self._variables = {"enable_thinking": thinks}

    async def of(self, messages: Sequence[Message]) -> Prompt:
        body = {"messages": [*map(dict, messages)], "chat_template_kwargs": self._variables}
        answer = await self._canister.document("POST", "apply-template", body)
        made = ApplyTemplateOutput.model_validate(answer)
        return Prompt(made.prompt, made.n_tokens)


class ChatMl:
    """Turns as the shipped model and Qwen know them, where nobody can be asked for the template."""

    async def of(self, messages: Sequence[Message]) -> Prompt:
        turns = (f"<|im_start|>{said['role']}\n{said['content']}<|im_end|>\n" for said in messages)
        return Prompt(f"{''.join(turns)}<|im_start|>assistant\n")


class Raw:
    """One text after the other, as they are: for models that only continue texts."""

    async def of(self, messages: Sequence[Message]) -> Prompt:
        return Prompt("".join(str(said["content"]) for said in messages))
