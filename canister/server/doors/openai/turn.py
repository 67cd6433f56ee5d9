"""A turn: one request to the model, normalized, whatever its dialect. Plain data that survives as JSON.

    Turn.model_validate_json(turn.model_dump_json()) == turn

Durable chains keep it so. Dialects make it (`turn_of`), and `run.py` answers it with events.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from canister.flags.params import SamplingParams

ToolChoice = Literal["none", "auto", "required"]


class Turn(BaseModel):
    """messages: {"role", "content", …} as OpenAI's API has them, content as one text, several or None, thoughts in
    `reasoning_content`; empty where `prompt` is given, which goes in as it is: text, or token ids and texts in order.

    tools: {"type": "function", "function": {"name", "description", "parameters"}}. tool_name: the one that must be
    called, with tool_choice "required".
    seed: of choice 0, choice i has seed + i; None: drawn. max_tokens: of each choice; None: until the context is full.
    n_logprobs: None: not wanted; 0: those of the tokens that came; N: and of the N likeliest.
    probs_after: by what the samplers have left to choose from, not by the raw logits.
    n_prompt_logprobs: those of the prompt's tokens: as n_logprobs.
    output_schema: a JSON schema that the answer obeys; None: none. grammar: GBNF; "" for none.
    reasoning_effort: for the template. thinks: None: as the template has it. splits_thoughts: False: they stay in the
    text, with their marks.
    continues: the last message is the assistant's, and it is gone on with.
    cache_key: names one of the caller's caches; None: the one with the longest common prefix. reuses: False: cold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants", defer_build=True)

    messages: tuple[dict[str, JsonValue], ...] = ()
    prompt: str | tuple[int | str, ...] | None = None

    tools: tuple[dict[str, JsonValue], ...] = ()
    tool_choice: ToolChoice = "auto"
    tool_name: str | None = None
    parallel_tool_calls: bool = False

    sampling: SamplingParams = SamplingParams()
    seed: int | None = None
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    n: int = 1
    n_logprobs: int | None = None
    probs_after: bool = False
    n_prompt_logprobs: int | None = None
    output_schema: dict[str, JsonValue] | bool | None = None
    grammar: str = ""

    reasoning_effort: str | None = None
    thinks: bool | None = None
    splits_thoughts: bool = True
    template_options: dict[str, JsonValue] = {}
    add_generation_prompt: bool = True
    continues: bool = False

    cache_key: str | None = None
    reuses: bool = True

    wants_progress: bool = False
    wants_timings: bool = False
