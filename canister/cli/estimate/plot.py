"""The picture of a conversation's budget: tokens of each call, and the cycles spent so far.

matplotlib is an extra and imported only to draw. The same numbers give the same SVG, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canister.metering import fees

if TYPE_CHECKING:
    from canister.metering.estimate import ConversationEstimate

# Formats note the time of their making, which must be left out.
FORMATS: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".png": {}, ".pdf": {"CreationDate": None}}

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "llama-canister",
    "svg.fonttype": "none",  # text stays text
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_BILLION = 10**9


class PlotMissing(Exception):
    """matplotlib is not installed; the message says how to get it."""


def draw_conversations(file: Path, conversations: Mapping[str, ConversationEstimate], prompt_tokens: int) -> None:
    """Draw conversations on the same prompt, by their names, into a file. Raises PlotMissing, OSError."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotMissing("drawing needs matplotlib: pip install 'llama-canister[plot]'") from None

    with rc_context(_STYLE):
        figure = Figure(figsize=(8, 6 + 0.2 * len(conversations)), layout="constrained")
        tokens, cycles = figure.subplots(2, 1, sharex=True)
        for index, (name, conversation) in enumerate(conversations.items()):
            line: dict[str, Any] = {"linewidth": 1.6, "linestyle": ("-", "--")[index % 2]}  # one may lie on another
            edges = [0, *accumulate(step.prompt + step.generated for step in conversation.steps)]
            sizes = [step.prompt + step.generated for step in conversation.steps]
            tokens.stairs(sizes, edges, baseline=None, label=_label(name, conversation), **line)
            spent = accumulate((step.cycles / _BILLION for step in conversation.steps), initial=0.0)
            cycles.plot(edges, list(spent), **line)
            cycles.set_xlim(0, edges[-1])
        for axes in (tokens, cycles):
            axes.axvspan(0, prompt_tokens, color="0.5", alpha=0.15, linewidth=0, label="the prompt goes in")
            axes.set_ylim(bottom=0)
        tokens.set_title("A conversation in update calls")
        tokens.set_ylabel("tokens per call")
        cycles.set_xlabel("tokens of the conversation, prompt and answer")
        cycles.set_ylabel("cycles so far (10⁹)")
        usd = fees.usd(_BILLION)
        dollars = cycles.secondary_yaxis("right", functions=(lambda y: y * usd, lambda y: y / usd))
        dollars.set_ylabel("US dollars")
        figure.legend(*tokens.get_legend_handles_labels(), loc="outside lower center", ncols=1, frameon=False)
        figure.savefig(file, dpi=150, metadata=FORMATS[file.suffix])


def _label(name: str, conversation: ConversationEstimate) -> str:
    return f"{name}: {conversation.n_calls:,} call{'s' if conversation.n_calls != 1 else ''}"
