"""What is shown of calls and of the context, cut to the terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canister.client.answer import CallStep
    from canister.client.conversation import Conversation

TABLE_HEAD = "run_update  cached  ingested  remaining  generated        ms  instructions  text"
NEARLY_FULL = 0.8


def note(text: str) -> None:
    """A line beside the answer, no wider than the terminal."""
    print(_cut(text), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A line for the person; all of it."""
    print(text, file=sys.stderr, flush=True)


def table_row(number: int, step: CallStep) -> str:
    """A call as a line; – for what the server does not tell."""
    counts = step.record
    cells = (
        f"call {number:<5}",
        f"{_known(counts.n_prompt_tokens_cached):>6}",
        f"{_known(counts.n_prompt_tokens_decoded):>8}",
        f"{_known(counts.n_prompt_tokens_remaining):>9}",
        f"{_known(counts.n_tokens_generated):>9}",
        f"{step.milliseconds:>8.1f}",
        f"{_known(step.instructions):>12}",
        repr(step.text) if step.text else "",
    )
    return "  ".join(cells).rstrip()


def context_line(conversation: Conversation) -> str:
    """How much of its context a conversation has taken."""
    used, n_ctx = conversation.n_tokens, conversation.n_ctx
    if n_ctx is None:
        return f"({used:,} tokens)"
    told = f"{used:,} of {n_ctx:,} tokens"
    if conversation.is_full:
        return f"({told}: the conversation is full; /new begins another)"
    if used > NEARLY_FULL * n_ctx and not conversation.options.drops_oldest:
        return f"({told}: nearly full; /new begins another)"
    return f"({told})"


def _known(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _cut(text: str) -> str:
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal: nothing wraps
        return text
    if width < 2 or (text.isascii() and len(text) <= width):
        return text
    from rich.cells import cell_len, set_cell_size  # some characters take two columns

    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"
