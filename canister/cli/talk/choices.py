"""A person's choices for answers, sampling and length, by options of `canister chat` and by `/set`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Number = int | float


@dataclass(frozen=True, slots=True)
class Choice:
    """flag: of run_update; "" if it has none. is_whole: takes whole numbers only."""

    flag: str
    standard: Number | None
    is_whole: bool
    is_good: Callable[[Number], bool]
    wanted: str


CHOICES: Mapping[str, Choice] = {
    "temp": Choice("--temp", 0.0, False, lambda n: n >= 0, "a number from 0 on; 0 always takes the likeliest token"),
    "seed": Choice("--seed", None, True, lambda n: 0 <= n < 2**32, "a whole number from 0 on"),
    "top-k": Choice("--top-k", None, True, lambda n: n >= 0, "a whole number; 0 for all"),
    "top-p": Choice("--top-p", None, False, lambda n: 0 < n <= 1, "a number above 0, up to 1"),
    "min-p": Choice("--min-p", None, False, lambda n: 0 <= n <= 1, "a number from 0 to 1"),
    "repeat-penalty": Choice("--repeat-penalty", None, False, lambda n: n > 0, "a number above 0; 1 for none"),
    "max-tokens": Choice("", 512, True, lambda n: n >= 2, "a whole number from 2 on"),
}


class NoChoice(Exception):
    """There is no such choice or value. The message says what there is."""


@dataclass(slots=True)
class Choices:
    """chosen: the values that differ from CHOICES."""

    chosen: dict[str, Number] = field(default_factory=dict)

    def set(self, name: str, text: str) -> None:
        """Choose a value as it was typed. Raises NoChoice."""
        choice = CHOICES.get(name)
        if choice is None:
            raise NoChoice(f"there is no {name!r} to set; there are {', '.join(CHOICES)}")
        try:
            value: Number = int(text) if choice.is_whole else float(text)
        except ValueError:
            raise NoChoice(f"{name} is {choice.wanted}, not {text!r}") from None
        if not math.isfinite(value) or not choice.is_good(value):
            raise NoChoice(f"{name} is {choice.wanted}, not {text}")
        self.chosen[name] = value

    def value(self, name: str) -> Number | None:
        return self.chosen.get(name, CHOICES[name].standard)

    @property
    def answer_tokens(self) -> int:
        return int(self.value("max-tokens") or 0)

    def flags(self) -> list[str]:
        """The flags for run_update."""
        values = ((choice.flag, self.value(name)) for name, choice in CHOICES.items() if choice.flag)
        return [
            word
            for flag, value in values
            if value is not None
            for word in (flag, f"{value:g}" if isinstance(value, float) else str(value))
        ]

    def take(self, kept: Mapping[str, object]) -> None:
        """Restore choices that were kept with a chat, except those made now."""
        for name, value in kept.items():
            if name in CHOICES and name not in self.chosen and isinstance(value, int | float):
                try:
                    self.set(name, str(value))
                except NoChoice:
                    continue  # of another version

    def told(self) -> str:
        return "\n".join(f"{name:<16}{_shown(self.value(name)):<8}{choice.wanted}" for name, choice in CHOICES.items())


def _shown(value: Number | None) -> str:
    return "–" if value is None else f"{value:g}"
