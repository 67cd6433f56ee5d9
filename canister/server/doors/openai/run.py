"""Runs a turn: renders, counts and binds it, answers it by chains of bounded calls, and yields events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from pydantic import JsonValue

from canister import chat_format, dispatch
from canister.api import strict_json
from canister.api.rest_only import APPLY_TEMPLATE
from canister.api.rest_records import ApplyTemplateInput, ApplyTemplateOutput
from canister.dispatch import herd_answers
from canister.errors import BadRequest, ContextExceeded, NotFound
from canister.flags.params import SamplingParams
from canister.server.doors.openai.chat_messages import text_of
from canister.server.doors.openai.errors import invalid, too_long
from canister.server.doors.openai.events import Begun, Done, Event
from canister.server.doors.openai.telling import Spoken, Telling

if TYPE_CHECKING:
    from canister.server.doors.openai.door import Model
    from canister.server.doors.openai.turn import Turn


@dataclass(frozen=True, slots=True)
class Admitted:
    """A turn that fits. wanted: an answer each choice. telling: makes events of their parts, once."""

    model: Model
    turn: Turn
    wanted: tuple[dispatch.Wanted, ...]
    telling: Telling

    @property
    def n_prompt(self) -> int:
        """Tokens."""
        return self.telling.begun.n_prompt

    @property
    def prompt(self) -> str:
        """As text."""
        return self.telling.begun.prompt


async def admit(model: Model, turn: Turn) -> Admitted:
    """Render, count and bind. DoorError for a turn that cannot be answered; Trap and CanisterError of the calls."""
    prompt, binding, spoken = turn.prompt, None, None
    if prompt is None:
        form = _form_of(model.view.chat_template)
        prompt = await _rendered(model, turn, form)
        binding = await _binding(model, turn, form, prompt)
        spoken = Spoken(form, binding.starts_in_thought)
    try:
        tokens = await model.canister.answers.prompt_tokens(model.caller, prompt)
    except ContextExceeded as error:
        raise too_long(error.n_prompt_tokens, error.n_ctx) from None
    is_large = strict_json.is_large(turn.output_schema)
    sampling = await asyncio.to_thread(_bound, turn, binding) if is_large else _bound(turn, binding)
    seed = herd_answers.drawn_seed() if turn.seed is None else turn.seed
    wanted = dispatch.Wanted(
        tokens,
        sampling,
        seed=seed,
        max_tokens=turn.max_tokens,
        stops=turn.stops,
        shown_special=() if binding is None else binding.special,
        n_logprobs=turn.n_logprobs,
        probs_after=turn.probs_after,
        n_prompt_logprobs=turn.n_prompt_logprobs,
        cache=None if turn.cache_key is None else dispatch.cache_of_key(turn.cache_key),
        reuses=turn.reuses,
    )
    text = prompt if isinstance(prompt, str) else "".join(part for part in prompt if isinstance(part, str))
    begun = Begun(len(tokens), seed, text)
    telling = Telling(turn, begun, spoken)
    others = replace(wanted, n_prompt_logprobs=None)  # the prompt is scored once
    choices = tuple(
        replace(others if choice else wanted, seed=(seed + choice) & 0xFFFFFFFF) for choice in range(turn.n)
    )
    return Admitted(model, turn, choices, telling)


async def events(admitted: Admitted) -> AsyncGenerator[Event]:
    """The events. The first one comes when the turn is admitted. Closed early, the turn's calls are cancelled."""
    model, telling = admitted.model, admitted.telling
    yield telling.begun
    async with aclosing(model.canister.answers.now(model.caller, admitted.wanted)) as parts:
        async for choice, part in parts:
            for event in telling.feed(choice, part):
                if isinstance(event, Done):
                    herd_answers.over()
                yield event


async def tokens_of(model: Model, texts: Sequence[str]) -> Mapping[str, Sequence[int]]:
    """The tokens of texts, as they stand within other text."""
    reply = await model.canister.tokenize(model.caller, texts)
    if reply.error is not None:
        raise reply.error
    assert isinstance(reply.value, list)
    return dict(zip(texts, reply.value, strict=True))


async def _rendered(model: Model, turn: Turn, form: chat_format.Form) -> str:
    options = dict(turn.template_options)
    if turn.reasoning_effort is not None:
        options["reasoning_effort"] = turn.reasoning_effort
    if turn.thinks is not None:
        options["enable_thinking"] = turn.thinks
    said = list(turn.messages)
    if turn.tools:
        said = await asyncio.to_thread(_with_preamble, said, form, turn)

    def asked() -> ApplyTemplateInput:
        return ApplyTemplateInput(
            messages=said,  # type: ignore[arg-type]  # checked by the model
            tools=list(turn.tools) or None if turn.tool_choice != "none" else None,
            add_generation_prompt=turn.add_generation_prompt,
            continue_final_message=turn.continues,
            chat_template_kwargs=options,
        )

    is_large = strict_json.is_large(said, turn.tools, options)
    decode = partial(asyncio.to_thread, asked) if is_large else asked
    try:
        reply = await model.canister.execute(APPLY_TEMPLATE, model.caller, decode)
    except NotFound as error:
        raise invalid(str(error), "messages") from None
    if reply.error is not None:
        raise reply.error
    made = reply.value
    assert isinstance(made, ApplyTemplateOutput)
    return made.prompt


def _with_preamble(
    messages: list[dict[str, JsonValue]], form: chat_format.Form, turn: Turn
) -> list[dict[str, JsonValue]]:
    """What a template does not say of the tools is put into the system message."""
    try:
        preamble = form.preamble(turn.tools, choice=turn.tool_choice)
    except BadRequest as error:
        raise invalid(str(error), "tools") from None
    if not preamble:
        return messages
    if messages and messages[0]["role"] == "system":
        first = messages[0]
        return [{**first, "content": f"{text_of(first['content'])}\n\n{preamble}"}, *messages[1:]]
    return [{"role": "system", "content": preamble}, *messages]


async def _binding(model: Model, turn: Turn, form: chat_format.Form, prompt: str) -> chat_format.BoundForm:
    def bind() -> chat_format.BoundForm:
        return form.bind(
            turn.tools,
            choice=turn.tool_choice,
            name=turn.tool_name,
            many=turn.parallel_tool_calls and turn.tool_name is None,  # who names a function waits for one call of it
            schema=turn.output_schema,
            prompt=prompt,
            splits_thoughts=turn.splits_thoughts,
            special_tokens=model.view.special_tokens,
        )

    is_bound = turn.output_schema is not None or (turn.tools and turn.tool_choice != "none")
    try:
        return await asyncio.to_thread(bind) if is_bound else bind()
    except BadRequest as error:
        raise invalid(str(error), "tools" if turn.tools else "response_format") from None


@lru_cache(16)
def _form_of(template: str) -> chat_format.Form:
    return chat_format.form_of(template)


def _bound(turn: Turn, binding: chat_format.BoundForm | None) -> SamplingParams:
    """The turn's sampling, with the binding of its answer."""
    if binding is not None:
        return replace(
            turn.sampling,
            grammar=turn.grammar,
            lark=binding.lark,
            grammar_triggers=binding.triggers,
            grammar_quiet=binding.quiet,
        )
    schema = "" if turn.output_schema is None else json.dumps(turn.output_schema)
    return replace(turn.sampling, grammar=turn.grammar, json_schema=schema)
