"""A turn, run: rendered and counted, then answered by a chain of bounded calls, told as events."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from canister import dispatch
from canister.api.rest_only import APPLY_TEMPLATE
from canister.api.rest_records import ApplyTemplateInput, ApplyTemplateOutput
from canister.errors import NotFound
from canister.flags.params import SamplingParams
from canister.server.doors.openai.errors import ApiError, invalid, too_long
from canister.server.doors.openai.events import Begun, Done, Event, Finished, Progress, TextDelta, Timings, Usage

if TYPE_CHECKING:
    from canister.server.doors.openai.door import Model
    from canister.server.doors.openai.turn import Turn


@dataclass(frozen=True, slots=True)
class Admitted:
    """A turn that fits. n_prompt: tokens; 0: not known yet."""

    model: Model
    turn: Turn
    prompt: str
    n_prompt: int


async def admit(model: Model, turn: Turn) -> Admitted:
    """Render and count. ApiError for what cannot be answered; Trap and CanisterError of the calls."""
    if turn.prompt is not None:
        if not isinstance(turn.prompt, str):
            raise ApiError(501, "prompts of tokens are not supported", param="prompt")
        return Admitted(model, turn, turn.prompt, 0)
    made = await _rendered(model, turn)
    if made.n_tokens >= model.view.n_ctx:
        raise too_long(made.n_tokens, model.view.n_ctx)
    return Admitted(model, turn, made.prompt, made.n_tokens)


async def events(admitted: Admitted) -> AsyncGenerator[Event]:
    """What happens; the first event comes when the turn is admitted. Closed early, its calls are cancelled."""
    turn, model = admitted.turn, admitted.model
    seed = secrets.randbits(32) if turn.seed is None else turn.seed
    yield Begun(admitted.n_prompt, seed, admitted.prompt)
    usage, timings = Usage(0, 0, 0), Timings()
    for choice in range(turn.n):
        wanted = dispatch.Wanted(
            admitted.prompt,
            _bound(turn),
            seed=(seed + choice) & 0xFFFFFFFF,
            max_tokens=turn.max_tokens,
            stops=turn.stops,
            n_logprobs=turn.n_logprobs,
            cache=None if turn.cache_key is None else dispatch.cache_of_key(turn.cache_key),
            reuses=turn.reuses,
        )
        async with aclosing(dispatch.answer(model.canister, model.caller, wanted)) as parts:
            async for part in parts:
                match part:
                    case dispatch.Ingested():
                        if turn.wants_progress:
                            yield Progress(part.n_prompt, part.n_cached, part.n_done, part.seconds)
                    case dispatch.Piece():
                        if part.text:
                            yield TextDelta(choice, part.text, part.tokens)
                    case dispatch.Answered():
                        yield Finished(choice, part.finish, part.stop, part.n_generated)
                        usage, timings = _with(usage, part), _timings(timings, part)
    yield Done(usage, timings)


def _with(usage: Usage, done: dispatch.Answered) -> Usage:
    return Usage(
        done.n_prompt,
        done.n_cached,
        usage.n_generated + done.n_generated,
        0,
        usage.n_calls + done.n_calls,
        usage.instructions + done.instructions,
        usage.cycles + done.cycles,
    )


def _timings(timings: Timings, done: dispatch.Answered) -> Timings:
    return Timings(
        done.n_cached,
        done.n_prompt - done.n_cached,
        timings.prompt_seconds + done.prompt_seconds,
        timings.n_generated + done.n_generated,
        timings.decode_seconds + done.decode_seconds,
    )


async def tokens_of(model: Model, texts: Sequence[str]) -> Mapping[str, Sequence[int]]:
    """The tokens of texts, as they are in the midst of others."""
    reply = await dispatch.tokenize(model.canister, model.caller, texts)
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
    asked = ApplyTemplateInput(
        messages=said,  # type: ignore[arg-type]  # checked by the model
        tools=list(turn.tools) or None if turn.tool_choice != "none" else None,
        add_generation_prompt=turn.add_generation_prompt or turn.continues,
        chat_template_kwargs=options,
    )
    try:
        reply = await dispatch.execute(model.canister, APPLY_TEMPLATE, model.caller, lambda: asked)
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
