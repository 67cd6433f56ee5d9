"""Requests of llama.cpp's `/completion` and `/infill` → turns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, JsonValue

from canister.api.rest_records import MAX_PARTS, ExtraFile
from canister.dispatch import ModelView
from canister.flags.generation_settings import generation_settings
from canister.server.doors.openai.errors import invalid
from canister.server.doors.openai.fields import GenerationFields, Text, Whole, Yes, read_value, shown
from canister.server.doors.openai.native.answer import About
from canister.server.doors.openai.native.early_end import EndLimits
from canister.server.doors.openai.native.prompts import Prompt, pieces_of
from canister.server.doors.openai.turn import Turn

MOST_PROBS = 100
MAX_FIELDS = 100


class CompletionBody(GenerationFields):
    """n_cmpl is n, logprobs is n_probs."""

    prompt: JsonValue = Field(None, description="A text, tokens, both mixed, {prompt_string}, or a list of these.")
    n_cmpl: Annotated[Whole, Field(ge=1)] | None = Field(None, description="Answers to each prompt.")
    n_probs: Annotated[Whole, Field(ge=0, le=MOST_PROBS)] | None = Field(
        None, description="Probabilities of the tokens, and of so many likeliest ones at each place."
    )
    logprobs: Annotated[Whole, Field(ge=0, le=MOST_PROBS)] | None = Field(None, description="The same.")
    post_sampling_probs: Yes = Field(
        False, description="Probabilities are those of what the samplers leave, not those of the raw logits."
    )
    return_tokens: Yes = Field(False, description="The answer has the tokens too.")
    response_fields: Annotated[tuple[Text, ...], Field(max_length=MAX_FIELDS)] = Field(
        (), description="What the answer tells; a/b for what stands within."
    )
    n_indent: Annotated[Whole, Field(ge=0, le=10_000)] = Field(0, description="Ends at a line that is indented less.")
    t_max_predict_ms: Annotated[Whole, Field(ge=-1, le=2**31)] = Field(
        -1, description="Ends with the first line that is complete after that; 0 or less: never."
    )

    @property
    def n_answers(self) -> int:
        return self.n_cmpl if self.n_cmpl is not None else self.n

    @property
    def n_likeliest(self) -> int:
        return self.n_probs if self.n_probs is not None else self.logprobs or 0

    @property
    def limits(self) -> EndLimits:
        """Of answers that stand alone; several ones at once have none."""
        if self.n_answers > 1:
            return EndLimits()
        seconds = self.t_max_predict_ms / 1000 if self.t_max_predict_ms > 0 else None
        return EndLimits(self.n_indent, seconds, self.stream and self.timings_per_token)


class InfillBody(CompletionBody):
    input_prefix: JsonValue = Field(None, description="What stands before: a text, or tokens and texts.")
    input_suffix: JsonValue = Field(None, description="What stands behind.")
    input_extra: Annotated[tuple[ExtraFile, ...], Field(max_length=MAX_PARTS)] = Field(
        (), description="Parts of other files."
    )


def turn_of(
    body: CompletionBody, view: ModelView, prompt: Prompt, tokens_of: Mapping[str, Sequence[int]] | None = None
) -> Turn:
    """tokens_of: of texts in logit_bias. DoorError names the field."""
    if body.n_answers > view.n_slots:
        name = "n" if body.n_cmpl is None else "n_cmpl"
        raise invalid(f"{name}: {body.n_answers} answers are wanted, the model has {view.n_slots} slots", name)
    tokens = () if isinstance(prompt, str) else prompt
    beyond = next((one for one in tokens if isinstance(one, int) and one >= view.n_vocab), None)
    if beyond is not None:
        raise invalid(f"prompt: {beyond} is no token, the vocabulary has {view.n_vocab}", "prompt")
    return Turn(
        prompt=prompt,
        sampling=body.sampling(view.args, view.n_vocab, tokens_of),
        seed=body.seed_or(view.args),
        max_tokens=body.max_tokens_or(view.args),
        stops=body.stop,
        n=body.n_answers,
        n_logprobs=body.n_likeliest or None,
        probs_after=body.post_sampling_probs,
        output_schema=body.schema_or_none(),
        grammar=body.grammar,
        splits_thoughts=False,
        cache_key=body.prompt_key(),
        reuses=body.cache_prompt,
        wants_progress=body.stream and body.return_progress,
        wants_timings=body.limits.are_any or (body.stream and body.timings_per_token),
    )


def about(body: CompletionBody, turn: Turn, view: ModelView, index: int, prompt: str) -> About:
    """The answers' facts about a turn's request. index: of its prompt. prompt: as text."""
    settings: dict[str, JsonValue] = {
        **generation_settings(turn.sampling, turn.seed, turn.max_tokens),
        "stop": [*turn.stops],
        "n_probs": body.n_likeliest,
        "post_sampling_probs": body.post_sampling_probs,
        "stream": body.stream,
        "timings_per_token": body.timings_per_token,
    }
    if turn.grammar:
        settings["grammar"] = turn.grammar
    return About(
        model=view.name,
        settings=settings,
        prompt=prompt,
        index=index * turn.n,
        n_probs=body.n_likeliest,
        probs_after=body.post_sampling_probs,
        returns_tokens=body.return_tokens,
        tells_progress=turn.wants_progress,
        max_tokens=turn.max_tokens,
        response_fields=body.response_fields,
    )


def infill_body(value: Mapping[str, JsonValue]) -> InfillBody:
    body = read_value(InfillBody, value)
    for name in ("input_prefix", "input_suffix"):
        pieces_of(getattr(body, name), name)
    if body.prompt is not None and not isinstance(body.prompt, str):
        raise invalid(f"prompt: a text is wanted (given: {shown(body.prompt)})", "prompt")
    return body
