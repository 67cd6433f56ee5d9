"""The `args` of a call: llama.cpp command-line flags → plain values.

`table.py` is the table. This file has the one loop that interprets it, and draws the page of the docs from it. It reads
no environment variable and no file. Whatever the input, it returns RunArgs or raises ArgsError.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from canister.errors import BadRequest
from canister.errors.nearest import nearest
from canister.flags.params import SamplingParams
from canister.flags.table import BREAKERS, FLAGS, SECTIONS, Effect, Flag
from canister.flags.values import shown, unescape


class ArgsError(BadRequest):
    """The arguments do not parse. The message begins with `Cannot parse args.`, as clients expect."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Cannot parse args. {reason}")


@dataclass(frozen=True, slots=True)
class RopeParams:
    """How positions are rotated; None, 0 and negative YaRN values mean the model's own."""

    scaling: str | None = None  # none, linear, yarn
    freq_base: float = 0.0
    freq_scale: float = 0.0
    yarn_orig_ctx: int = 0  # tokens
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_slow: float = -1.0
    yarn_beta_fast: float = -1.0


@dataclass(frozen=True, slots=True)
class PlacementParams:
    """Where a model is computed, by llama.cpp's names; by default on the processor alone.

    n_gpu_layers: layers that devices compute; below 0: all. split_mode: how several devices share a model: none, layer,
    row, tensor. main_gpu: the device's number, with none and row. tensor_split: parts of the devices, () for the memory
    that each has free. kv_offload: KV rows lie where their layer is computed.
    """

    n_gpu_layers: int = 0
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    kv_offload: bool = True


@dataclass(frozen=True, slots=True)
class DraftParams:
    """How answers are drafted. model: a stable-memory path; None: no model guesses. The other fields by llama.cpp's
    names; None: as the server's settings have it.
    """

    model: str | None = None
    spec_type: str | None = None  # none, or some of ngram-simple, draft-simple, with a comma
    n_max: int | None = None  # tokens
    n_min: int = 0
    p_min: float = 0.0
    type_k: str = "f16"
    type_v: str = "f16"


@dataclass(frozen=True, slots=True)
class RunArgs:
    """What the flags of one call ask for; the defaults are those of llama-completion (llama.cpp b10076).

    Texts have their escapes processed. `given`: canonical names, such as --ctx-size, of the flags given.
    """

    model: str | None = None  # a stable-memory path
    ctx_size: int = 0  # tokens; 0: the model's own
    batch_size: int = 2048
    ubatch_size: int = 512
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: str = "auto"
    swa_full: bool = False
    rope: RopeParams = field(default_factory=RopeParams)
    placement: PlacementParams = field(default_factory=PlacementParams)
    draft: DraftParams = field(default_factory=DraftParams)
    prompt: str = ""
    escape: bool = True
    prompt_cache: str = ""
    prompt_cache_all: bool = False
    prompt_cache_ro: bool = False
    keep: int = 0  # tokens; -1: the whole prompt
    context_shift: bool = False
    n_predict: int = -1  # tokens; -1: until end of generation, -2: until the context is full
    reverse_prompts: tuple[str, ...] = ()
    special: bool = False
    seed: int | None = None
    chat_template: str = ""
    chat_template_kwargs: str = ""  # a JSON object
    reasoning: str = "auto"  # on, off
    reasoning_effort: str = ""
    reasoning_format: str = "auto"
    reasoning_preserve: bool = True
    log_file: str = ""  # a stable-memory path
    log_disable: bool = False
    log_verbosity: int = 3
    log_prefix: bool = False
    log_timestamps: bool = False
    verbose_prompt: bool = False
    sampling: SamplingParams = field(default_factory=SamplingParams)
    given: frozenset[str] = frozenset()


def parse(args: Sequence[str]) -> RunArgs:
    """Read the flags. Raises ArgsError with what is wrong and the nearest known flag."""
    values: dict[str, Any] = {}
    given: set[str] = set()
    rest = iter(enumerate(args))
    for index, arg in rest:
        _check_text(index, arg)
        name = arg.replace("_", "-") if arg.startswith("--") else arg
        flag, positive = _flag_of(name)
        given.add(flag.canonical)
        if flag.kind is None:
            _set(values, flag, flag.value if positive else not flag.value)
            continue
        following = args[index + 1] if index + 1 < len(args) else None
        if flag.kind.optional and (following is None or _is_other_flag(following)):
            _set(values, flag, flag.kind.bare)
            continue
        if following is None:
            raise ArgsError(f"{name} needs a value ({flag.kind.shape}) after it: {flag.note}.")
        _check_text(*next(rest))
        try:
            _set(values, flag, flag.kind.read(following))
        except ValueError as error:
            raise ArgsError(f"The value of {name} does not fit: {error}.") from error
    return _run_args(values, frozenset(given))


def _is_other_flag(text: str) -> bool:
    return text.startswith("-") and text != "-1"  # -1 means auto


def _check_text(index: int, text: str) -> None:
    """Refuse what a command line cannot hold: NUL, and half of a surrogate pair, which JSON can carry."""
    bad = _NOT_TEXT.search(text)
    if bad is not None:
        raise ArgsError(f"Argument {index + 1} holds the character U+{ord(bad[0]):04X}, which is not text.")


def _flag_of(name: str) -> tuple[Flag, bool]:
    """The row of a spelling, and whether it is the positive one."""
    found = _BY_NAME.get(name)
    if found is None:
        raise ArgsError(_unknown(name))
    flag, _ = found
    if flag.effect is Effect.REFUSED:
        raise ArgsError(f"{name} is refused: {flag.note}.")
    return found


def _unknown(name: str) -> str:
    what = "Unknown flag" if name.startswith("-") else "Expected a flag, got"
    flag: str | None = re.split("[= ]", name, maxsplit=1)[0]
    if flag in _BY_NAME:
        what = f"Flag and value are two arguments. {what}"
    else:
        flag = nearest(name, _BY_NAME, 0.0)
    return f"{what} {shown(name)}: the nearest known flag is {flag}."


def _set(values: dict[str, Any], flag: Flag, value: object) -> None:
    if flag.effect is Effect.IGNORED:
        return
    if flag.clears:
        values.pop(flag.clears, None)
    if not flag.appends:
        values[flag.field] = value
    elif flag.field == BREAKERS and value == "none":
        values[flag.field] = []
    else:
        values.setdefault(flag.field, []).append(value)


_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_ESCAPED = {"prompt": "--prompt", "reverse_prompts": "--reverse-prompt", BREAKERS: "--dry-sequence-breaker"}


def _run_args(values: dict[str, Any], given: frozenset[str]) -> RunArgs:
    if values.get("escape", True):
        for name in _ESCAPED:
            if name in values:
                values[name] = _unescaped(name, values[name])
    records: dict[str, dict[str, Any]] = {"": {}, "sampling": {}, "rope": {}, "placement": {}, "draft": {}}
    for name, value in values.items():
        record, _, field_name = name.rpartition(".")
        records[record][field_name] = tuple(value) if isinstance(value, list) else value
    return RunArgs(
        **records[""],
        sampling=SamplingParams(**records["sampling"]),
        rope=RopeParams(**records["rope"]),
        placement=PlacementParams(**records["placement"]),
        draft=DraftParams(**records["draft"]),
        given=given,
    )


def _unescaped(name: str, value: Any) -> Any:
    try:
        return unescape(value) if isinstance(value, str) else [unescape(text) for text in value]
    except ValueError as error:
        raise ArgsError(f"The value of {_ESCAPED[name]} does not fit: {error}.") from error


def _by_name() -> dict[str, tuple[Flag, bool]]:
    table: dict[str, tuple[Flag, bool]] = {}
    for flag in FLAGS:
        table |= dict.fromkeys(flag.names, (flag, True)) | dict.fromkeys(flag.off, (flag, False))
    return table


_BY_NAME = _by_name()


def render_flags() -> str:
    """docs/flags.md: every flag, its value and default, and what it does or why it does nothing."""
    lines = [
        "# Flags",
        "",
        "The command-line flags of llama-completion (llama.cpp b10076) that `args` takes.",
        "Generated from `canister/flags/table.py`; do not edit. Environment variables are not read.",
        "In long flags `_` is as good as `-`. Flag and value are two arguments. Of two, the last one wins.",
    ]
    for title, flags in SECTIONS.items():
        counts = flags[0].effect is Effect.COUNTS
        lines += ["", f"## {title}", ""]
        heads = ("flag", "value", "default", "meaning") if counts else ("flag", "why")
        lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        lines += [_row(flag, counts) for flag in flags]
    return "\n".join(lines) + "\n"


def _row(flag: Flag, counts: bool) -> str:
    names = ", ".join(f"`{name}`" for name in (*flag.names, *flag.off))
    if not counts:
        return f"| {names} | {_cell(flag.note)} |"
    shape = f"`{_cell(flag.kind.shape)}`" if flag.kind else ""
    return f"| {names} | {shape} | {_cell(_default(flag))} | {_cell(flag.note)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(flag: Flag) -> str:
    """The default as one would type it; empty when there is none."""
    value: object = RunArgs()
    for part in flag.field.split("."):
        value = getattr(value, part)
    if flag.kind is None:
        return "" if value in (False, RunArgs().log_verbosity) else "on"
    if isinstance(value, tuple):
        return " ".join(f"`{text!r}`" if flag.appends else f"`{text}`" for text in value)
    return "" if value in (None, "") else f"`{value}`"
