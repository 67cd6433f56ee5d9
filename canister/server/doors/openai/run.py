"""A turn, run: rendered and counted, then answered by a chain of bounded calls, told as events."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from canister import dispatch
from canister.api import strict_json
from canister.api.rest_only import APPLY_TEMPLATE
from canister.api.rest_records import ApplyTemplateInput, ApplyTemplateOutput
from canister.errors import NotFound
from canister.flags.params import SamplingParams
from canister.server.doors.openai.errors import ApiError, invalid, too_long
from canister.server.doors.openai.events import Begun, Event
from canister.server.doors.openai.telling import Telling

if TYPE_CHECKING:
    from canister.server.doors.openai.door import Model
    from canister.server.doors.openai.turn import Turn


@dataclass(frozen=True, slots=True)
class Admitted:
    """A turn that fits. wanted: an answer each choice. telling: makes events of what they give."""

    model: Model
    turn: Turn
    wanted: tuple[dispatch.Wanted, ...]
    telling: Telling

    @property
    def n_prompt(self) -> int:
        """Tokens; 0: not known yet."""
        return self.telling.begun.n_prompt

    @property
    def prompt(self) -> str:
        return self.telling.begun.prompt


async def admit(model: Model, turn: Turn) -> Admitted:
    """Render and count. ApiError for what cannot be answered; Trap and CanisterError of the calls."""
    prompt, n_prompt = await _prompt(model, turn)
    seed = secrets.randbits(32) if turn.seed is None else turn.seed
    wanted = dispatch.Wanted(
        prompt,
        _bound(turn),
        seed=seed,
        max_tokens=turn.max_tokens,
        stops=turn.stops,
        n_logprobs=turn.n_logprobs,
        cache=None if turn.cache_key is None else dispatch.cache_of_key(turn.cache_key),
        reuses=turn.reuses,
    )
    choices = tuple(replace(wanted, seed=(seed + choice) & 0xFFFFFFFF) for choice in range(turn.n))
    return Admitted(model, turn, choices, Telling(turn, Begun(n_prompt, seed, prompt)))


async def events(admitted: Admitted) -> AsyncGenerator[Event]:
    """What happens; the first event comes when the turn is admitted. Closed early, its calls are cancelled."""
    model, telling = admitted.model, admitted.telling
    yield telling.begun
    for choice, wanted in enumerate(admitted.wanted):
        async with aclosing(model.canister.answers.now(model.caller, wanted)) as parts:
            async for part in parts:
                for event in telling.feed(choice, part):
                    yield event


async def _prompt(model: Model, turn: Turn) -> tuple[str, int]:
    """The prompt, and how many tokens it has; 0: not known yet."""
    if turn.prompt is not None:
        if not isinstance(turn.prompt, str):
            raise ApiError(501, "prompts of tokens are not supported", param="prompt")
        return turn.prompt, 0
    made = await _rendered(model, turn)
    if made.n_tokens >= model.view.n_ctx:
        raise too_long(made.n_tokens, model.view.n_ctx)
    return made.prompt, made.n_tokens


async def tokens_of(model: Model, texts: Sequence[str]) -> Mapping[str, Sequence[int]]:
    """The tokens of texts, as they are in the midst of others."""
    reply = await model.canister.tokenize(model.caller, texts)
    if reply.error is not None:
        raise reply.error
    assert isinstance(reply.value, list)
    return dict(zip(texts, reply.value, strict=True))


async def _rendered(model: Model, turn: Turn) -> ApplyTemplateOutput:
    options = dict(turn.template_options)
    if turn.reasoning_effort is not None:
        options["reasoning_effort"] = turn.reasoning_effort
    if turn.thinks is not None:
        options["enable_thinking"] = turn.thinks
    said = turn.messages[:-1] if turn.continues else turn.messages

    def asked() -> ApplyTemplateInput:
        return ApplyTemplateInput(
            messages=said,  # type: ignore[arg-type]  # checked by the model
            tools=list(turn.tools) or None if turn.tool_choice != "none" else None,
            add_generation_prompt=turn.add_generation_prompt or turn.continues,
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
    if turn.continues:
        last = str(turn.messages[-1]["content"] or "")
        return ApplyTemplateOutput(prompt=made.prompt + last, n_tokens=made.n_tokens)
    return made


def _bound(turn: Turn) -> SamplingParams:
    """The turn's sampling, with what its answer is bound to."""
    schema = "" if turn.output_schema is None else json.dumps(turn.output_schema)
    return replace(turn.sampling, grammar=turn.grammar, json_schema=schema)
