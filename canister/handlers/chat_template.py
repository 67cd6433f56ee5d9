"""What a client needs to talk to the loaded model in turns: its properties, and its chat template applied.

Only REST offers these. A model without a template is assumed to speak ChatML if its vocabulary has those tokens.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from canister.api.records import InputRecord
from canister.api.rest_records import (
    ApplyTemplateInput,
    ApplyTemplateOutput,
    GenerationDefaults,
    Modalities,
    Props,
)
from canister.engine.load import library
from canister.errors import NotFound
from canister.flags.generation_settings import generation_settings
from canister.handlers import template_capabilities
from canister.handlers.arguments import parse_args
from canister.model_file.chat_template import CHATML
from canister.runtime.template_runner import TemplateSource
from canister.system import distribution

if TYPE_CHECKING:
    from canister.api.rest_records import TemplateKind
    from canister.engine.engine import Engine
    from canister.flags.parse import RunArgs
    from canister.runtime.call import Call

MESSAGES_AT_ONCE = 200  # that are gone through on the event loop
CHATML_TOKEN = "<|im_start|>"


async def props(call: Call) -> Props:
    engine = await call.engine(use="any")
    info = engine.info
    args = _loaded_with(call)
    template, kind = template_of(engine, args.chat_template)
    params = generation_settings(args.sampling, args.seed, args.n_predict if args.n_predict >= 0 else None)
    caps = template_capabilities.NOTHING
    if template:
        caps = await template_capabilities.capabilities(call.canister.model.templates, _source(engine, template))
    return Props(
        default_generation_settings=GenerationDefaults(params=params, n_ctx=info.n_ctx),
        total_slots=info.n_slots,
        model_alias=call.canister.name,
        model_path=info.name,
        model_ftype=info.file_type,
        modalities=Modalities(),
        chat_template=template,
        chat_template_caps=caps,
        bos_token=info.bos_token,
        eos_token=info.eos_token,
        build_info=f"llama-canister {distribution.version()}, llama-cpp-python {library.version()}",
        description=info.description,
        chat_template_source=kind,
    )


async def apply_template(call: Call, arg: ApplyTemplateInput) -> ApplyTemplateOutput:
    engine = await call.engine()
    template, kind = template_of(engine, _loaded_with(call).chat_template)
    if kind == "none":
        raise NotFound(
            f"the model {engine.info.name} has no chat template, nor the tokens of ChatML: "
            "send it a text to go on with, as it is"
        )

    def said() -> list[dict[str, object]]:
        return [message.model_dump(exclude_unset=True) for message in arg.messages]

    prompt = await call.canister.model.templates.render(
        _source(engine, template),
        await asyncio.to_thread(said) if len(arg.messages) > MESSAGES_AT_ONCE else said(),
        add_generation_prompt=arg.add_generation_prompt,
        continue_final_message=arg.continue_final_message,
        tools=arg.tools,
        options=arg.chat_template_kwargs,
    )
    # Counted and let go of by the thread: of a very long prompt even that takes its time.
    n_tokens = await asyncio.to_thread(lambda: len(engine.tokenize(prompt, add_bos=True)))
    return ApplyTemplateOutput(prompt=prompt, n_tokens=n_tokens)


def template_of(engine: Engine, wanted: str = "") -> tuple[str, TemplateKind]:
    """The template that fits the model, "" for none, and its origin. wanted: the flag --chat-template."""
    if wanted == "chatml" or "{" in wanted:  # another name stands for a template of llama.cpp, which is not here
        return CHATML if wanted == "chatml" else wanted, "flag"
    if engine.info.chat_template:
        return engine.info.chat_template, "model"
    if len(engine.tokenize(CHATML_TOKEN, add_bos=False)) == 1:
        return CHATML, "chatml"
    return "", "none"


def _loaded_with(call: Call) -> RunArgs:
    """The flags of load_model."""
    return parse_args(InputRecord(args=[*(call.state.model_args or ())]))


def _source(engine: Engine, template: str) -> TemplateSource:
    return TemplateSource(template, engine.info.bos_token, engine.info.eos_token, engine.info.add_bos)
