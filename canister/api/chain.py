"""A whole answer as a chain of bounded calls: the next call, and the part of its output that is the answer. No I/O.

    run_update -p PROMPT -n 1    until nothing of the prompt remains: it goes in, part by part
    run_update -p "" -n LEFT     until end of generation, the longest answer, a stop or a full context

The first calls' output is no part of the answer: the token sampled when the prompt is in is not kept, and the next call
samples it again. A call may also echo a token that is the only one of the cache's last batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from canister.api.records import InputRecord, RunOutputRecord

Finish = Literal["stop", "length", "full", "stuck"]
"""stop: end of generation, or a stop string. length: the longest answer. full: the context. stuck: no progress."""

_STOP_SLACK = 2  # characters that may follow a stop string within the same token


@dataclass(slots=True)
class Chain:
    """One answer. `next` is the argument of the next run_update, and `took` is told of each call that was made.

    prompt: everything that the model is to continue. cache: the prompt cache. n_left: tokens that the answer may still
    have; it may end one earlier. flags: of every call, for instance sampling. stops: strings that end the answer when
    it contains them.
    """

    prompt: str
    cache: str
    n_left: int
    flags: Sequence[str] = ()
    stops: Sequence[str] = ()
    answer: str = ""
    finish: Finish | None = None
    _is_in: bool = field(default=False, init=False)  # all of the prompt
    _n_remaining: int | None = field(default=None, init=False)
    _conversation: str = field(default="", init=False)  # text of the cache, as the last call told it

    def next(self) -> InputRecord | None:
        """The argument of the next call; None when the answer is over."""
        if self.finish is not None:
            return None
        n_predict = self.n_left if self._is_in else 1
        # --no-escape: what a person types is meant as it is, a backslash too.
        args = ["--prompt-cache", self.cache, "--prompt-cache-all", "--no-escape"]
        args += ["-p", "" if self._is_in else self.prompt, "-n", str(n_predict)]
        args += [word for stop in self.stops for word in ("-r", stop)] if self._is_in else []
        return InputRecord(args=[*args, *self.flags])

    def shown(self, text: str, *, is_echo: bool) -> str:
        """What a piece of the running call's output adds to the answer."""
        if not self._is_in or is_echo:
            return ""
        self.answer += text
        return text

    def took(self, record: RunOutputRecord, *, is_shown: bool) -> str:
        """A call has ended. Returns what it adds to the answer. is_shown: its pieces were given to `shown`, so it adds
        nothing.
        """
        before, self._conversation = self._conversation, record.conversation
        if not self._is_in:
            remaining = record.n_prompt_tokens_remaining or 0
            if remaining == self._n_remaining:
                self.finish = "stuck"
            self._n_remaining = remaining
            self._is_in = remaining == 0
            return ""
        text = "" if is_shown else self.shown(_without_echo(before, record), is_echo=False)
        n_generated = record.n_tokens_generated or 0
        self.n_left -= n_generated
        if record.generated_eog or self._is_stopped():
            self.finish = "stop"
        elif self.n_left <= 1:  # a call that ends at -n has sampled one more token than it counts
            self.finish = "length"
        elif n_generated == 0:
            self.finish = "full"
        return text

    def _is_stopped(self) -> bool:
        return any(stop in self.answer[-len(stop) - _STOP_SLACK :] for stop in self.stops if stop)


def _without_echo(before: str, record: RunOutputRecord) -> str:
    """The output of a call that continued where the cache ended, without the prompt that it may echo.

    before: the text of the cache before the call. `conversation` has grown by what the call decoded. `output` has the
    echo, this, and perhaps one token sampled last. Where a text repeats itself, so that both readings fit, there is no
    echo.
    """
    output, held = record.output, before.rstrip("\N{REPLACEMENT CHARACTER}")  # a character that was not complete
    if not record.conversation.startswith(held):
        return output  # a context shift
    new = record.conversation[len(held) :].rstrip("\N{REPLACEMENT CHARACTER}")
    says_nothing = not new and (record.generated_eog or not record.n_tokens_generated)
    if says_nothing:
        return ""
    if output.startswith(new):
        return output
    n = next((n for n in range(1, len(output)) if held.endswith(output[:n]) and output.startswith(new, n)), 0)
    return output[n:]
