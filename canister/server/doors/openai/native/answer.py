"""Events → answers of llama.cpp's `/completion`, whole or as a stream. Pure: the same events give the same answer.

A stream has a short form for each delta, and the whole form at its end, without what was already sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from canister.api.tokens import Token
from canister.server.doors.openai.chat_answer import finite, progress, timings
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    Progress,
    TextDelta,
    ThoughtDelta,
    Timed,
    Timings,
    ToolArguments,
    Usage,
)

ANY_SLOT = -1


@dataclass(frozen=True, slots=True)
class About:
    """An answer's facts about its request. settings: of generation, as sent with each answer. prompt: its text.

    index: of the first choice among all answers. n_probs: the likeliest tokens to list; 0: none. probs_after: their
    probabilities are those behind the samplers. max_tokens: None: until the context is full. response_fields: paths of
    the wanted fields; empty: all.
    """

    model: str
    settings: Mapping[str, JsonValue]
    prompt: str = ""
    index: int = 0
    n_probs: int = 0
    probs_after: bool = False
    returns_tokens: bool = False
    tells_progress: bool = False
    max_tokens: int | None = None
    response_fields: tuple[str, ...] = ()


@dataclass(slots=True)
class _Choice:
    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    end: Finished | None = None


@dataclass(slots=True)
class Answer:
    """Feed it the events of a turn. `whole` is the answer, `feed` returns what a stream sends for each event.

    usage: the turn's usage, once it is done.
    """

    about: About
    _n_prompt: int = 0
    _seed: int = 0
    _timings: Timings | None = None
    _choices: dict[int, _Choice] = field(default_factory=dict)
    _done: Done | None = None

    def feed(self, event: Event) -> list[dict[str, JsonValue]]:
        match event:
            case Begun():
                self._n_prompt, self._seed = event.n_prompt, event.seed
            case Progress() if self.about.tells_progress:
                return [{**self._short(0, "", ()), "prompt_progress": progress(event)}]
            case Timed():
                self._timings = event.timings
            case TextDelta() | ThoughtDelta() | ToolArguments():
                choice = self._choice(event.choice)
                tokens = () if isinstance(event, ToolArguments) else event.tokens
                choice.texts.append(event.text)
                choice.tokens += tokens
                return [self._short(event.choice, event.text, tokens)]
            case Finished():
                self._choice(event.choice).end = event
            case Done():
                self._done = event
                return [self._long(choice, is_streamed=True) for choice in sorted(self._choices)]
        return []

    @property
    def usage(self) -> Usage:
        return Usage(0, 0, 0) if self._done is None else self._done.usage

    def whole(self) -> list[dict[str, JsonValue]]:
        """One answer for each choice."""
        return [self._long(choice, is_streamed=False) for choice in sorted(self._choices)]

    def _choice(self, choice: int) -> _Choice:
        return self._choices.setdefault(choice, _Choice())

    def _short(self, choice: int, text: str, tokens: Sequence[Token]) -> dict[str, JsonValue]:
        made: dict[str, JsonValue] = {
            "index": self.about.index + choice,
            "content": text,
            "tokens": [token.id for token in tokens],
            "stop": False,
            "id_slot": ANY_SLOT,
            "tokens_predicted": len(self._choice(choice).tokens),
            "tokens_evaluated": self._n_prompt,
        }
        if self._timings is not None:
            made["timings"] = timings(self._timings)
        if self.about.n_probs and tokens:
            made["completion_probabilities"] = probabilities(tokens, after=self.about.probs_after)
        return made

    def _long(self, choice: int, *, is_streamed: bool) -> dict[str, JsonValue]:
        about, said = self.about, self._choices[choice]
        end = said.end or Finished(choice, "stop")
        text = "".join(said.texts)
        is_cut = end.finish == "length" and (about.max_tokens is None or end.n_generated < about.max_tokens)
        tells_tokens = about.returns_tokens and not is_streamed
        made: dict[str, JsonValue] = {
            "index": about.index + choice,
            "content": "" if is_streamed else text,
            "tokens": [token.id for token in said.tokens] if tells_tokens else [],
            "id_slot": ANY_SLOT,
            "stop": True,
            "model": about.model,
            "tokens_predicted": end.n_generated,
            "tokens_evaluated": self._n_prompt,
            "generation_settings": {**about.settings, "seed": (self._seed + choice) & 0xFFFFFFFF},
            "prompt": about.prompt,
            "has_new_line": "\n" in text,
            "truncated": is_cut,
            "stop_type": _stop_type(end),
            "stopping_word": end.stop or "",
            "tokens_cached": self._n_prompt + max(end.n_generated - 1, 0),
            "timings": timings(self._done.timings if self._done is not None else Timings()),
        }
        if about.n_probs and not is_streamed:
            made["completion_probabilities"] = probabilities(said.tokens, after=about.probs_after)
        return selected(made, about.response_fields) if about.response_fields else made


def whole(about: About, events: Iterable[Event]) -> list[dict[str, JsonValue]]:
    answer = Answer(about)
    for event in events:
        answer.feed(event)
    return answer.whole()


def selected(content: Mapping[str, JsonValue], paths: Sequence[str]) -> dict[str, JsonValue]:
    """The values at these paths, under their names, where they exist."""
    found: dict[str, JsonValue] = {}
    for path in paths:
        value: JsonValue = dict(content)
        for key in path.split("/"):
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
        else:
            found[path] = value
    return found


def probabilities(tokens: Sequence[Token], *, after: bool = False) -> list[JsonValue]:
    """Of each token, and of the likeliest at its place. after: behind the samplers, and not as logarithms."""
    return [
        {
            **_probability(token.id, token.data, token.logprob, after=after),
            "top_probs" if after else "top_logprobs": [
                _probability(likely.id, likely.data, likely.logprob, after=after) for likely in token.top
            ],
        }
        for token in tokens
    ]


def _probability(token: int, data: bytes, logprob: float | None, *, after: bool) -> dict[str, JsonValue]:
    told: dict[str, JsonValue] = {"id": token, "token": data.decode("utf-8", "ignore"), "bytes": [*data]}
    if after:
        return told | {"prob": 0.0 if logprob is None else math.exp(logprob)}
    return told | {"logprob": finite(logprob)}


def _stop_type(end: Finished) -> str:
    if end.finish == "length":
        return "limit"
    return "eos" if end.stop is None else "word"
