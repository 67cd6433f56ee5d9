"""Request fields of several dialects: sampling and length, at the top level of a body.

`null` is absent, unknown fields are ignored, and defaults are the flags with which the model was loaded. For a value
that does not fit, DoorError names the field, shows the value and says what is wanted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, Strict, ValidationError
from pydantic import model_validator as checked

from canister.api import strict_json
from canister.flags.params import SamplingParams
from canister.flags.parse import RunArgs
from canister.flags.values import FLOAT32_MAX, INT32_MAX, SAMPLER_SEQUENCE, SAMPLERS
from canister.server.doors.openai.errors import DoorError, invalid

MOST_LOGPROBS = 20  # alternatives of a token
MAX_STOPS = 256
MAX_STOP_CHARACTERS = 65_536  # of all together
MAX_BIASES = 20_000
MAX_BIAS_TEXTS = 256
MAX_BIAS_CHARACTERS = 256  # of each text
SHOWN_CHARACTERS = 80

B = TypeVar("B", bound=BaseModel)


# -- kinds of values


def _whole(value: object) -> object:
    """Numbers such as 16.0 are whole; true is not one."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number is wanted")
    return value


def _within(low: float, high: float) -> BeforeValidator:
    """Clamps to the range, as llama.cpp's server does."""

    def clamp(value: object) -> object:
        return min(max(value, low), high) if isinstance(value, int | float) and not isinstance(value, bool) else value

    return BeforeValidator(clamp)


def _samplers(value: object) -> object:
    if isinstance(value, str):
        return SAMPLER_SEQUENCE.read(value)
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return SAMPLERS.read(";".join(value))
    raise ValueError("a list of samplers' names is wanted, or a text of their letters")


def _stops(value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("a text or a list of texts is wanted")
    if len(texts) > MAX_STOPS or sum(map(len, texts)) > MAX_STOP_CHARACTERS:
        raise ValueError(f"at most {MAX_STOPS} texts of together {MAX_STOP_CHARACTERS} characters are taken")
    return tuple(text for text in dict.fromkeys(texts) if text)


def _biases(value: object) -> object:
    """Pairs of a token's number, or a text that stands for its tokens, and the addition to its logit."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError('{"token": bias} is wanted, or [[token, bias]]')
    if len(pairs) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens are taken")
    biases = tuple((_biased(token), _bias(bias)) for token, bias in pairs)
    if sum(isinstance(token, str) for token, _ in biases) > MAX_BIAS_TEXTS:
        raise ValueError(f"at most {MAX_BIAS_TEXTS} texts are taken, for each may be many tokens; send tokens' numbers")
    return biases


def _biased(token: object) -> int | str:
    if isinstance(token, str):
        if token.isascii() and token.isdecimal() and len(token) < 10:
            return int(token)
        if not token or len(token) > MAX_BIAS_CHARACTERS:
            raise ValueError(f"a text has 1 to {MAX_BIAS_CHARACTERS} characters")
        return token
    if isinstance(token, int) and not isinstance(token, bool) and 0 <= token <= INT32_MAX:
        return token
    raise ValueError("a token is its number or a text")


def _bias(bias: object) -> float:
    if bias is False:
        return -math.inf
    if isinstance(bias, bool) or not isinstance(bias, int | float) or abs(bias) > FLOAT32_MAX:
        raise ValueError("a bias is a number, or false for never")
    return float(bias)


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, Strict(), Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
Yes = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Share = Annotated[Number, _within(0, 1)]
Count = Annotated[Whole, Field(ge=0, le=INT32_MAX)]
Stops = Annotated[tuple[str, ...], BeforeValidator(_stops), Field(json_schema_extra={"type": ["string", "array"]})]
Biases = Annotated[tuple[tuple[int | str, float], ...], BeforeValidator(_biases)]


def _seed(seed: int) -> int | None:
    """llama.cpp's seeds have 32 bits, and further bits are cut off as there. -1 and its 32 bits mean a drawn seed."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError("a seed has at most 64 bits")
    return None if seed & 0xFFFFFFFF == 0xFFFFFFFF else seed & 0xFFFFFFFF


Seed = Annotated[Whole, AfterValidator(_seed)]


# -- bodies


class Body(BaseModel):
    """A request's JSON object. Absent and null are the same. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), defer_build=True)

    @checked(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data

    def has(self, name: str) -> bool:
        """Was this field given?"""
        return name in self.model_fields_set


class SamplingFields(Body):
    """How tokens are chosen. The names are those of llama.cpp's flags."""

    samplers: Annotated[tuple[str, ...], BeforeValidator(_samplers)] | None = Field(
        None, description="Samplers by name, in their order; or by letter, as one text."
    )
    temperature: Annotated[Number, _within(0, FLOAT32_MAX)] | None = Field(None, description="0: greedy. Clamped.")
    top_k: Annotated[Whole, _within(0, INT32_MAX)] | None = Field(None, description="0: all. Clamped.")
    top_p: Share | None = Field(None, description="1: off. Clamped.")
    min_p: Share | None = Field(None, description="0: off. Clamped.")
    typical_p: Number | None = Field(None, description="1: off.")
    top_n_sigma: Number | None = Field(None, description="Below 0: off.")
    xtc_probability: Share | None = Field(None, description="0: off. Clamped.")
    xtc_threshold: Share | None = Field(None, description="Above 0.5: off. Clamped.")
    dynatemp_range: Number | None = Field(None, description="0: off.")
    dynatemp_exponent: Number | None = Field(None, description="Of the range of temperatures.")
    mirostat: Annotated[Whole, _within(0, 2)] | None = Field(None, description="0: off, 1, 2. Clamped.")
    mirostat_tau: Number | None = Field(None, description="Target entropy.")
    mirostat_eta: Number | None = Field(None, description="Learning rate.")
    adaptive_target: Annotated[Number, Field(le=1)] | None = Field(None, description="Below 0: off.")
    adaptive_decay: Annotated[Number, Field(ge=0, le=0.99)] | None = Field(None, description="0 to 0.99.")
    dry_multiplier: Number | None = Field(None, description="0: off.")
    dry_base: Annotated[Number, Field(ge=1)] | None = Field(None, description="1 or more.")
    dry_allowed_length: Count | None = Field(None, description="Repeats up to this are free.")
    dry_penalty_last_n: Annotated[Whole, Field(ge=-1, le=INT32_MAX)] | None = Field(None, description="-1: all.")
    dry_sequence_breakers: Annotated[tuple[Text, ...], Field(min_length=1, max_length=256, fail_fast=True)] | None = (
        Field(None, description="Texts at which repeats end.")
    )
    repeat_penalty: Annotated[Number, Field(gt=0)] | None = Field(None, description="1: off.")
    repeat_last_n: Annotated[Whole, Field(ge=-1, le=INT32_MAX)] | None = Field(
        None, description="Tokens that penalties see; -1: all."
    )
    presence_penalty: Number | None = Field(None, description="0: off.")
    frequency_penalty: Number | None = Field(None, description="0: off.")
    min_keep: Count | None = Field(None, description="Tokens that samplers leave at least.")
    ignore_eos: Yes | None = Field(None, description="Never end by itself.")
    logit_bias: Biases | None = Field(
        None,
        description="{token: bias} or [[token, bias]]; a token is its number or a text, of "
        f"which at most {MAX_BIAS_TEXTS} are taken; false: never.",
    )
    seed: Seed | None = Field(None, description="-1: drawn. Choice i of n has seed + i.")

    def bias_texts(self) -> list[str]:
        """Texts in logit_bias, whose tokens must be looked up."""
        return [token for token, _ in self.logit_bias or () if isinstance(token, str)]

    def sampling(
        self, defaults: RunArgs, n_vocab: int, tokens_of: Mapping[str, Sequence[int]] | None = None
    ) -> SamplingParams:
        """tokens_of: the tokens of bias_texts."""
        given = {name: getattr(self, name) for name in _SAMPLING if self.has(name)}
        params = replace(defaults.sampling, **given)
        if self.logit_bias is None:
            return params
        pairs: list[tuple[int, float]] = []
        for token, bias in self.logit_bias:
            found = [token] if isinstance(token, int) else (tokens_of or {})[token]
            pairs += [(one, bias) for one in found]
        beyond = next((token for token, _ in pairs if token >= n_vocab), None)
        if beyond is not None:
            raise invalid(f"logit_bias: there is no token {beyond}, the vocabulary has {n_vocab}", "logit_bias")
        return replace(params, logit_bias=tuple(pairs))

    def seed_or(self, defaults: RunArgs) -> int | None:
        return self.seed if self.has("seed") else defaults.seed


_SAMPLING = {field.name for field in fields_of(SamplingParams)} & set(SamplingFields.model_fields) - {"logit_bias"}


class StreamOptions(Body):
    include_usage: Annotated[Yes, Field(description="One more chunk at the end, with usage and no choices.")] = False


class GenerationFields(SamplingFields):
    """The common fields of one text's answers, in OpenAI's dialects."""

    model: Text | None = Field(None, description="A canister's name; absent: the first. GET /v1/models lists them.")
    stream: Yes = Field(False, description="The answer comes piece by piece.")
    stream_options: StreamOptions = Field(StreamOptions(), description="What a stream tells beside the answer.")
    stop: Stops = Field((), description="Texts that end the answer; they are cut off.")
    n: Annotated[Whole, Field(ge=1)] = Field(1, description="Choices, at most as many as the model has slots.")
    max_completion_tokens: Annotated[Whole, Field(ge=-2)] | None = Field(None, description="Of the whole answer.")
    max_tokens: Annotated[Whole, Field(ge=-2)] | None = Field(None, description="The same.")
    n_predict: Annotated[Whole, Field(ge=-2)] | None = Field(None, description="The same.")
    json_schema_: JsonValue = Field(None, alias="json_schema", description="A schema that the answer obeys.")
    grammar: Text = Field("", description="GBNF that the answer obeys.")
    cache_prompt: Yes = Field(True, description="false: nothing that was computed before is used.")
    prompt_cache_key: Annotated[Text, Field(max_length=1024)] | None = Field(
        None, description="Names a cache of the caller's; absent: the one that begins most alike."
    )
    return_progress: Yes = Field(False, description="Chunks tell how much of the prompt is in.")
    timings_per_token: Yes = Field(False, description="Each chunk has timings.")
    verbose: Yes = Field(False, description="The prompt is in `__verbose`.")
    sse_ping_interval: Annotated[Whole, Field(ge=-1, le=INT32_MAX)] | None = Field(
        None, description="Seconds of silence before a comment is sent; -1: none is."
    )

    def silences(self) -> float | None:
        """Seconds of silence after which a stream gets a comment; None: the default; infinite: never."""
        seconds = self.sse_ping_interval
        return None if seconds is None else math.inf if seconds <= 0 else float(seconds)

    def max_tokens_or(self, defaults: RunArgs) -> int | None:
        """Of each choice; None: until the context is full."""
        for given in (self.max_completion_tokens, self.max_tokens, self.n_predict, defaults.n_predict):
            if given is not None:
                return given if given >= 0 else None
        return None

    def choices(self, n_slots: int) -> int:
        if self.n > n_slots:
            raise invalid(f"n: {self.n} choices are wanted, the model has {n_slots} slots", "n")
        return self.n

    def prompt_key(self) -> str | None:
        return self.prompt_cache_key or None

    def schema_or_none(self, name: str = "json_schema") -> dict[str, JsonValue] | bool | None:
        """The top-level schema, which excludes a grammar."""
        if self.has("json_schema_") and self.grammar:
            raise invalid("grammar and json_schema exclude each other: send one of them", "grammar")
        return schema_of(self.json_schema_, name) if self.has("json_schema_") else None


def schema_of(value: JsonValue, name: str) -> dict[str, JsonValue]:
    """A given schema; empty: any object."""
    if not isinstance(value, dict):
        raise invalid(f"{name}: a JSON schema is an object (given: {shown(value)})", name)
    return value or {"type": "object"}


# -- reading


def read(of: type[B], body: bytes) -> B:
    """A body of JSON. DoorError names the wrong field."""
    return read_value(of, object_of(body))


def object_of(body: bytes) -> dict[str, JsonValue]:
    """The JSON object in a body. Raises DoorError."""
    try:
        value = strict_json.read(body)
    except strict_json.NotJson as error:
        raise invalid(f"the body is not understood: {error}") from None
    if not isinstance(value, dict):
        raise invalid(f"the body is to be a JSON object (given: {shown(value)})")
    return value


def read_value(of: type[B], value: Mapping[str, Any]) -> B:
    """As `read`, for an object that is already parsed."""
    try:
        return of.model_validate(value)
    except ValidationError as error:
        raise _told(error) from None


def _told(error: ValidationError) -> DoorError:
    """The first problem."""
    problem = error.errors(include_url=False, include_context=False)[0]
    param = path_text(problem["loc"])
    if problem["type"] == "missing":
        return invalid(f"{param} is missing", param)
    what = problem["msg"].removeprefix("Value error, ").replace("dictionary", "object").replace("tuple", "list")
    return invalid(f"{param}: {what} (given: {shown(problem['input'])})", param)


def path_text(location: Sequence[int | str]) -> str:
    """messages[0].content"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def misfit(field: str, kind: str, given: object) -> DoorError:
    """400 for a field of another kind. kind: what it is to be, such as `a text`."""
    told = f"{field} is missing: it is {kind}" if given is None else f"{field} is {kind} (given: {shown(given)})"
    return invalid(told, field)


def shown(value: object) -> str:
    """A value for a message: short."""
    text = ""
    for piece in json.JSONEncoder(ensure_ascii=False, default=repr).iterencode(value):
        text += piece
        if len(text) > SHOWN_CHARACTERS:
            return text[:SHOWN_CHARACTERS] + "…"
    return text
