"""Prompts for text between two texts, for the dialects that can ask for it."""

from __future__ import annotations

from canister.api.rest_only import INFILL_PROMPT
from canister.api.rest_records import InfillInput, InfillOutput
from canister.server.doors.openai.door import Model
from canister.server.doors.openai.errors import DoorError
from canister.server.doors.openai.turn import Turn


async def prompt_for(model: Model, wanted: InfillInput) -> tuple[int, ...]:
    """The prompt's tokens. DoorError 501: the model was not trained to fill in."""
    reply = await model.canister.execute(INFILL_PROMPT, model.caller, lambda: wanted)
    if reply.error is not None:
        raise reply.error
    made = reply.value
    assert isinstance(made, InfillOutput)
    if made.missing:
        missing = ", ".join(f"{name} token" for name in made.missing)
        raise DoorError(501, f"infill is not supported by this model: it has no {missing}")
    return tuple(made.tokens)


async def filled(model: Model, turn: Turn, suffix: str) -> Turn:
    """The turn, with a prompt for what stands between its own and the suffix. DoorError as of `prompt_for`."""
    prompt = turn.prompt or ""
    wanted = InfillInput(
        input_prefix=prompt if isinstance(prompt, str) else [*prompt],
        input_suffix=suffix,
        n_predict=-1 if turn.max_tokens is None else turn.max_tokens,
    )
    return turn.model_copy(update={"prompt": await prompt_for(model, wanted)})
