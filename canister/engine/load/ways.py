"""Ways of running llama.cpp, and the choice among those that survived a trial. Pure rules.

A processor or a compiler may break some of llama.cpp's kernels, so `library_trial.py` tries a build before it is used.
What did not survive is switched off, the cheapest thing first: extra buffer types, large decodes, flash attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from canister.model_file.gguf import TENSOR_TYPES, GgufFile

Attention = Literal["off", "on"]  # flash attention
Flash = Literal["any", "off", "on"]

EXTRA_BUFFERS = "extra buffer types (repacked weights, AMX)"
FLASH = "flash attention"
_EXPERTS = " experts"
_NO_WEIGHTS = ("i8", "i16", "i32", "i64", "f64", "q8_1", "q8_K")  # llama.cpp multiplies with none of these
WEIGHT_TYPES = tuple(type_.name for type_ in TENSOR_TYPES if type_.name not in _NO_WEIGHTS)


class Way(NamedTuple):
    """What one trial runs. max_rows: of one of llama.cpp's decodes; 0: as many as requested."""

    extra_buffers: bool
    flash_attn: bool
    max_rows: int = 0


Outcomes = Mapping[Way, str]
"""What became of each way that was tried: a fault in words, or an empty text where it survived."""


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What is switched off in llama.cpp here; by default nothing.

    flash: "any", or the only setting that works. reasons: a sentence for each restriction. advice: what to do about it.
    """

    extra_buffers: bool = True
    max_rows: int = 0
    flash: Flash = "any"
    reasons: tuple[str, ...] = field(default=(), compare=False)
    advice: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[bool, int, str]:
        """What results of decodes depend on."""
        return self.extra_buffers, self.max_rows, self.flash

    def flash_attn(self, asked: str) -> str:
        """`on`, `off` or `auto`, for the requested setting."""
        return self.flash if asked == "auto" and self.flash != "any" else asked


def weight_kinds(header: GgufFile) -> tuple[str, ...]:
    """The kinds of matrices in a model file: weight types, those of experts apart."""
    kinds = {
        tensor.type.name + (_EXPERTS if "_exps." in tensor.name else "")
        for tensor in header.tensors
        if len(tensor.shape) > 1 and tensor.type.name in WEIGHT_TYPES
    }
    return tuple(sorted(kinds))


def type_of(kind: str) -> tuple[str, bool]:
    """The weight type of a kind, and whether it is that of experts."""
    return kind.removesuffix(_EXPERTS), kind.endswith(_EXPERTS)


def first_ways() -> list[Way]:
    """The ways tried first, of every kind."""
    return [Way(extra, flash) for extra in (True, False) for flash in (False, True)]


def capped_ways(outcomes: Outcomes, rows_survived: Mapping[Way, int]) -> list[Way]:
    """The ways tried next, where no way survives with any number of rows: as many rows as survived, then one."""
    more = []
    for flash in (False, True):
        if any(fault == "" for way, fault in outcomes.items() if way.flash_attn == flash):
            continue
        for extra in (True, False):
            most = max((n for way, n in rows_survived.items() if way[:2] == (extra, flash)), default=0)
            caps = (most, 1) if most else ()
            more += [way for cap in dict.fromkeys(caps) if (way := Way(extra, flash, cap)) not in outcomes][:1]
    return more


def choose(tried: Mapping[str, Outcomes], ways: Sequence[Attention]) -> Restrictions | None:
    """The fastest way in which every kind survived; None if there is none. ways: the allowed ones, the best first."""
    for way in ways:
        flash_attn = way == "on"
        found = [(extra, rows) for extra in (True, False) if (rows := _rows(tried, extra, flash_attn)) is not None]
        if not found:
            continue
        extra, rows = min(found, key=lambda one: (one[1] != 0, -one[1]))
        other = _rows(tried, extra, not flash_attn)
        is_worse = other is None or (other != 0 and (rows == 0 or other < rows))
        only: Flash = way if len(ways) > 1 and is_worse else "any"
        return Restrictions(extra, rows, only, tuple(_reasons(tried, extra, rows, only)))
    return None


def _rows(tried: Mapping[str, Outcomes], extra: bool, flash_attn: bool) -> int | None:
    """The largest decode that every kind survived: 0 for any number of rows, None for not even one."""
    least = 0
    for outcomes in tried.values():
        survived = [way.max_rows for way, fault in outcomes.items() if fault == "" and way[:2] == (extra, flash_attn)]
        if not survived:
            return None
        if 0 not in survived:
            least = min(least or max(survived), max(survived))
    return least


def _reasons(tried: Mapping[str, Outcomes], extra: bool, rows: int, only: Flash) -> Iterable[str]:
    if not extra:
        yield f"{EXTRA_BUFFERS} are off: {fault(tried, lambda way: way.extra_buffers)}"
    if rows:
        told = "one row" if rows == 1 else f"{rows} rows"
        yield f"a decode has at most {told}: {fault(tried, lambda way: way.extra_buffers == extra)}"
    if only != "any":
        is_flash = only == "off"
        told = FLASH if is_flash else f"running without {FLASH}"
        yield f"{told} is off: {fault(tried, lambda way: way[:2] == (extra, is_flash))}"


def fault(tried: Mapping[str, Outcomes], counts: Callable[[Way], bool] = lambda way: True) -> str:
    """The first fault among the ways that count, in words; empty if there is none."""
    for kind, outcomes in tried.items():
        for way, found in outcomes.items():
            if found and counts(way):
                return f"with {kind} weights {found}"
    return ""
