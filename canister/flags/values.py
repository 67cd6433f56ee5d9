"""How the text after a command-line flag becomes a value: the kinds of values, their ranges and shapes.

Each kind reads one text and returns a value, or raises ValueError with what is wrong. Numbers are read as llama.cpp
reads them (blanks in front, a sign, decimal), but the whole text must be the number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", covariant=True)
U = TypeVar("U")

INT32_MAX = 2**31 - 1
INT32_MIN = -(2**31)
UINT32_MAX = 2**32 - 1
FLOAT32_MAX = 3.4028234663852886e38

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
SPEC_TYPES = ("none", "ngram-simple", "draft-simple")
SAMPLER_LETTERS = {
    "d": "dry",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "s": "top_n_sigma",
    "m": "min_p",
    "t": "temperature",
    "x": "xtc",
    "i": "infill",
    "e": "penalties",
    "a": "adaptive_p",
}
MAX_SAMPLERS = 64
ALL_LAYERS = -1  # of a model go to devices
MAX_DEVICES = 16  # of llama.cpp

_WHOLE = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]+)")
_NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LOGIT_BIAS = re.compile(r"\s*([+-]?[0-9]+)\s*([+-])(.*)", re.DOTALL)
_ESCAPE = re.compile(rb"""\\(?:x([0-9A-Fa-f]{2})|([nrt'"\\]))""")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"'": b"'", b'"': b'"', b"\\": b"\\"}
_ON = {"on", "enabled", "true", "1"}
_OFF = {"off", "disabled", "false", "0"}
_AUTO = {"auto", "-1"}


@dataclass(frozen=True, slots=True)
class ValueKind(Generic[T]):
    """What follows a flag. `optional`: a bare flag means `bare`, as in older releases of llama.cpp."""

    shape: str
    read: Callable[[str], T]
    optional: bool = False
    bare: object = None


def shown(text: str) -> str:
    """The text as an error message quotes it: short, and on one line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def whole(low: int = INT32_MIN, high: int = INT32_MAX, shape: str = "N") -> ValueKind[int]:
    """A whole number from low to high, both included."""

    def read(text: str) -> int:
        match = _WHOLE.fullmatch(text)
        if match is None:
            raise ValueError(f"{shown(text)} is not a whole number")
        sign, digits = match.groups()
        value = int(digits) if len(digits) <= 20 else 10**20
        value = -value if sign == "-" else value
        if not low <= value <= high:
            raise ValueError(f"{shown(text)} is out of range: {low} to {high}")
        return value

    return ValueKind(shape, read)


def number(low: float = -FLOAT32_MAX, *, above: float | None = None) -> ValueKind[float]:
    """A finite number of 32 bits, at least `low`, greater than `above` where given."""

    def read(text: str) -> float:
        if _NUMBER.fullmatch(text) is None:
            raise ValueError(f"{shown(text)} is not a finite number")
        value = float(text)
        if above is not None and value <= above:
            raise ValueError(f"{shown(text)} is out of range: it must be greater than {above:g}")
        if not low <= value <= FLOAT32_MAX:
            raise ValueError(f"{shown(text)} is out of range: {low:g} to {FLOAT32_MAX:g}")
        return value

    return ValueKind("N", read)


def mapped(kind: ValueKind[T], change: Callable[[T], U]) -> ValueKind[U]:
    """A kind whose value is changed after it was read."""
    return ValueKind(kind.shape, lambda text: change(kind.read(text)))


def choice(*values: str) -> ValueKind[str]:
    """One of a few words."""

    def read(text: str) -> str:
        if text not in values:
            raise ValueError(f"{shown(text)} is none of {', '.join(values)}")
        return text

    return ValueKind("|".join(values), read)


def _on_off_auto(text: str) -> str:
    if text in _ON:
        return "on"
    if text in _OFF:
        return "off"
    if text in _AUTO:
        return "auto"
    raise ValueError(f"{shown(text)} is none of on, off, auto")


def _sampler_names(text: str) -> tuple[str, ...]:
    names = []
    for part in text.split(";"):
        word = part.strip().lower()
        if word and word not in _SAMPLER_WORDS:
            raise ValueError(f"{shown(part)} is no sampler: {', '.join(SAMPLER_LETTERS.values())}")
        if word:
            names.append(_SAMPLER_WORDS[word])
    return _bounded(names)


def _sampler_sequence(text: str) -> tuple[str, ...]:
    for letter in text:
        if letter not in SAMPLER_LETTERS:
            known = ", ".join(f"{letter} {name}" for letter, name in SAMPLER_LETTERS.items())
            raise ValueError(f"{shown(letter)} is the letter of no sampler: {known}")
    return _bounded([SAMPLER_LETTERS[letter] for letter in text])


def _bounded(names: list[str]) -> tuple[str, ...]:
    if len(names) > MAX_SAMPLERS:
        raise ValueError(f"more than {MAX_SAMPLERS} samplers")
    return tuple(names)


def _sampler_words() -> dict[str, str]:
    """llama.cpp takes top_k, top-k and topk alike, and three nicknames."""
    words = {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p"}
    for name in SAMPLER_LETTERS.values():
        words |= {name: name, name.replace("_", "-"): name, name.replace("_", ""): name}
    return words


def _logit_bias(text: str) -> tuple[int, float]:
    match = _LOGIT_BIAS.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is not TOKEN+BIAS or TOKEN-BIAS, as in 15043-1 or 2-inf")
    token, sign, amount = match.groups()
    bias = math.inf if amount.strip().lower() in ("inf", "infinity") else number().read(amount)
    return whole(0).read(token), -bias if sign == "-" else bias


def _json_schema(text: str) -> str:
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown(text)} is not JSON: {error}") from error
    return text


def _json_object(text: str) -> str:
    if not isinstance(json.loads(_json_schema(text)), dict):
        raise ValueError(f"{shown(text)} is not a JSON object")
    return text


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _gpu_layers(text: str) -> int:
    if text in ("all", "auto"):
        return ALL_LAYERS
    try:
        return max(whole().read(text), ALL_LAYERS)
    except ValueError as error:
        raise ValueError(f"{error}, all or auto") from None


def _spec_type(text: str) -> str:
    kinds = {part.strip() for part in text.split(",") if part.strip()}
    for kind in kinds:
        if kind not in SPEC_TYPES:
            raise ValueError(f"{shown(kind)} is no kind of speculation here: {', '.join(SPEC_TYPES)}")
    if not kinds or (kinds > {"none"}):
        raise ValueError(f"{shown(text)} is not none, or some of {', '.join(SPEC_TYPES[1:])} with commas between them")
    return ",".join(kind for kind in SPEC_TYPES if kind in kinds)


def _tensor_split(text: str) -> tuple[float, ...]:
    parts = tuple(number(0.0).read(part) for part in re.split("[,/]+", text))
    if len(parts) > MAX_DEVICES:
        raise ValueError(f"{shown(text)} has parts for {len(parts)} devices, and there are at most {MAX_DEVICES}")
    if not any(parts):
        raise ValueError(f"{shown(text)} gives no device a part")
    return parts


def unescape(text: str) -> str:
    r"""\n \r \t \' \" \\ and \xHH as llama.cpp processes them; any other backslash stays. \xHH makes a byte:
    ValueError when the bytes are not UTF-8 in the end."""
    if "\\" not in text:
        return text
    data = _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else _ESCAPED[m[2]], text.encode())
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"its \\x escapes make bytes that are not UTF-8, at byte {error.start}") from error


_SAMPLER_WORDS = _sampler_words()

TEXT = ValueKind("TEXT", lambda text: text)
PATH = ValueKind("PATH", lambda text: text)
ON_OFF_AUTO = ValueKind("on|off|auto", _on_off_auto, optional=True, bare="on")
SEED = mapped(whole(-1, UINT32_MAX), lambda value: None if value in (-1, UINT32_MAX) else value)
CONTEXT_SIZE = mapped(whole(0), lambda value: value and max(value, 8))  # llama-completion raises 1…7 to 8
TEMPERATURE = mapped(number(), lambda value: max(value, 0.0))
RECIPROCAL = mapped(number(above=0.0), lambda value: 1.0 / value)
ROPE_SCALING = choice("none", "linear", "yarn")
KV_TYPE = choice(*KV_TYPES)
GPU_LAYERS = ValueKind("N|all|auto", _gpu_layers)
SPLIT_MODE = choice("none", "layer", "row", "tensor")
TENSOR_SPLIT = ValueKind("N,N,…", _tensor_split)
SPEC_TYPE = ValueKind("none|ngram-simple|draft-simple", _spec_type)
SAMPLERS = ValueKind("NAME;NAME;…", _sampler_names)
SAMPLER_SEQUENCE = ValueKind("LETTERS", _sampler_sequence)
LOGIT_BIAS = ValueKind("TOKEN±BIAS", _logit_bias)
JSON_SCHEMA = ValueKind("SCHEMA", _json_schema)
JSON_OBJECT = ValueKind("JSON", _json_object)
