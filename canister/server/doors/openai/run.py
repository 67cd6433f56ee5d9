"""A turn, run: rendered and counted, then answered by a chain of bounded calls, told as events."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from canister import dispatch
from canister.api.rest_only import APPLY_TEMPLATE
from canister.api.rest_records import ApplyTemplateInput, ApplyTemplateOutput
from canister.errors import NotFound
from canister.flags.params import SamplingParams
from canister.flags.table import FLAGS, Effect
from canister.server.doors.openai.errors import ApiError, invalid, too_long
from canister.server.doors.openai.events import Begun, Done, Event, Finished, TextDelta, Timings, Usage

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
    n_prompt = n_generated = n_calls = instructions = cycles = 0
    for choice in range(turn.n):
        wanted = dispatch.Wanted(
            admitted.prompt,
            answer_tokens=turn.max_tokens if turn.max_tokens is not None else model.view.n_ctx,
            flags=(*_flags(turn), "--seed", str((seed + choice) & 0xFFFFFFFF)),
            stops=turn.stops,
        )
        async with aclosing(dispatch.answer(model.canister, model.caller, wanted)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    yield TextDelta(choice, part)
                    continue
                n_prompt, n_calls = part.n_prompt_tokens, n_calls + part.n_calls
                n_generated, instructions = n_generated + part.n_generated_tokens, instructions + part.instructions
                cycles += part.cycles
                finish = "stop" if part.finish == "stop" else "length"
                yield Finished(choice, finish, n_generated=part.n_generated_tokens)  # type: ignore[arg-type]
    yield Done(Usage(n_prompt, 0, n_generated, 0, n_calls, instructions, cycles), Timings())


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


_FLAG_OF = {
    flag.field.removeprefix("sampling."): flag.canonical
    for flag in reversed(FLAGS)
    if flag.effect is Effect.COUNTS and flag.field.startswith("sampling.")
}


def _flags(turn: Turn) -> list[str]:
    """The sampling of a turn as flags of a call."""
    default, words = SamplingParams(), list[str]()
    for field in fields(SamplingParams):
        value = getattr(turn.sampling, field.name)
        if value == getattr(default, field.name) or field.name not in _FLAG_OF:
            continue
        flag = _FLAG_OF[field.name]
        if field.name == "samplers":
            words += ["--samplers", ";".join(value)]
        elif field.name == "logit_bias":
            words += [word for token, bias in value for word in (flag, f"{token}{bias:+}")]
        elif isinstance(value, tuple):
            words += [word for text in value for word in (flag, text)]
        else:
            words += [flag] if value is True else [flag, str(value)]
    if turn.grammar:
        words += ["--grammar", turn.grammar]
    if turn.output_schema is not None:
        words += ["--json-schema", json.dumps(turn.output_schema)]
    return words
