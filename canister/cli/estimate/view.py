"""How `canister estimate` shows an estimate: as JSON, as a page, or as a row of a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from canister.cli.estimate.question import CallTerms, EstimateResult, OneCall, Question
from canister.cli.shared import tables
from canister.metering import fees
from canister.metering.estimate import CallEstimate, ConversationEstimate

PIPE_WIDTH = 200  # columns; where nothing says how wide the page is, no line is broken

PARTS = {
    "clear": "clearing the KV cache",
    "session": "reading the prompt cache",
    "pagein": "paging in the model",
    "prompt": "decoding the prompt",
    "generate": "decoding the answer",
    "sampling": "sampling",
    "save": "writing the prompt cache",
    "base": "the rest",
}
"""The terms of the formula, as a person reads them."""


def document(found: EstimateResult, limit: int | None) -> dict[str, object]:
    """One answer as JSON."""
    head: dict[str, object] = {"model": found.model, "n_ctx": found.context.n_ctx}
    match found.estimate:
        case None:
            return head | {"error": found.problem}
        case CallEstimate() as call:
            numbers: dict[str, object] = {
                "instructions": call.instructions,
                "cycles": call.cycles,
                "limit": limit,
                "fits": call.fits,
                "max_generate": call.max_generate,
                "parts": call.cost.parts(),
                "xdr": fees.xdr(call.cycles),
                "usd": fees.usd(call.cycles),
                "seconds": call.seconds,
            }
        case ConversationEstimate() as talk:
            numbers = {
                "instructions": talk.instructions,
                "cycles": talk.cycles,
                "limit": limit,
                "n_calls": talk.n_calls,
                "tokens_per_call_first": talk.tokens_per_call_first,
                "tokens_per_call_last": talk.tokens_per_call_last,
                "xdr": talk.xdr,
                "usd": talk.usd,
                "seconds": talk.seconds,
                "calls": [asdict(step) for step in talk.steps],
            }
    return head | numbers | {"estimates": list(found.guesses)}


def show(found: EstimateResult, question: Question, terms: CallTerms) -> None:
    """One answer as a page."""
    context = found.context
    print(f"{found.model}, context {context.n_ctx:,} tokens, batch {context.n_batch:,}, ", end="")
    print(f"KV {context.type_k}/{context.type_v}")
    if isinstance(question, OneCall):
        print(
            f"one call: {question.prompt_tokens:,} prompt tokens, {question.cached_tokens:,} of them cached, ", end=""
        )
        print(f"{question.generate:,} generated")
    else:
        print(f"a conversation: {question.prompt_tokens:,} prompt tokens, {question.answer_tokens:,} of an answer")
    print()
    match found.estimate:
        case CallEstimate() as call:
            _show_call(call, terms.limit)
        case ConversationEstimate() as talk:
            _show_conversation(talk, terms.limit)
    _show_guesses([found])


def show_table(found: Sequence[EstimateResult]) -> None:
    """A row for each answer."""
    talks = [one for one in found if isinstance(one.estimate, ConversationEstimate)]
    counts = ("tokens/call", "at the end", "calls") if talks else ("most tokens", "fits")
    head = ("model", "context", *counts, "10⁹ instructions", "10⁹ cycles", "XDR", "USD", "seconds")
    rows = [(one.model, f"{one.context.n_ctx:,}", *_cells(one.estimate)) for one in found]
    n_columns = len(head)
    tables.show(
        head,
        [(*row, *[""] * (n_columns - len(row))) for row in rows],
        shorten=0,
        right=range(1, n_columns),
        leave_out=[head.index(name) for name in ("seconds", "XDR", "10⁹ instructions")],
    )
    problems = [f"{one.model}, context {one.context.n_ctx:,}: {one.problem}" for one in found if one.problem]
    for problem in problems:
        print(problem, file=sys.stderr)
    _show_guesses(found)


def _cells(estimate: CallEstimate | ConversationEstimate | None) -> tuple[str, ...]:
    match estimate:
        case None:
            return ("–",)
        case CallEstimate():
            cells: tuple[str, ...] = (f"{estimate.max_generate:,}", "yes" if estimate.fits else "no")
        case ConversationEstimate():
            first, last = estimate.tokens_per_call_first, estimate.tokens_per_call_last
            cells = (f"{first:,}", f"{last:,}", f"{estimate.n_calls:,}")
    cycles = estimate.cycles
    return (
        *cells,
        f"{estimate.instructions / 1e9:,.2f}",
        f"{cycles / 1e9:,.2f}",
        f"{fees.xdr(cycles):.4f}",
        f"{fees.usd(cycles):.4f}",
        f"{estimate.seconds:,.1f}",
    )


def _show_call(call: CallEstimate, limit: int | None) -> None:
    table = Table(box=None, pad_edge=False, show_footer=True)
    table.add_column("", "total")
    table.add_column("instructions", f"{call.instructions:,}", justify="right")
    table.add_column("", "", justify="right")
    for name, instructions in call.cost.parts().items():
        table.add_row(PARTS[name], f"{instructions:,}", f"{100 * instructions / call.instructions:.1f} %")
    _print(table)
    print()
    if limit is None:
        verdict = "no limit"
    else:
        verdict = f"{limit:,}: it {'fits' if call.fits else 'does not fit'} ({100 * call.instructions / limit:.1f} %)"
    _show_lines(
        ("limit", verdict),
        ("most tokens generated", f"{call.max_generate:,}"),
        *_prices(call.cycles, call.seconds),
    )


def _show_conversation(talk: ConversationEstimate, limit: int | None) -> None:
    _show_lines(
        ("tokens per call", f"{talk.tokens_per_call_first:,} after the prompt"),
        ("", f"{talk.tokens_per_call_last:,} at the end"),
        ("calls", f"{talk.n_calls:,}"),
        ("limit of a call", "none" if limit is None else f"{limit:,} instructions"),
        ("instructions", f"{talk.instructions:,}"),
        *_prices(talk.cycles, talk.seconds),
    )


def _prices(cycles: int, seconds: float) -> tuple[tuple[str, str], ...]:
    return (
        ("cycles", f"{cycles:,}"),
        ("XDR", f"{fees.xdr(cycles):.6f}"),
        ("USD", f"{fees.usd(cycles):.6f}"),
        ("main-network time", f"{seconds:,.1f} s, within 20 %"),
    )


def _show_lines(*lines: tuple[str, str]) -> None:
    for name, value in lines:
        print(f"{name:<22} {value}")


def _show_guesses(found: Sequence[EstimateResult]) -> None:
    for guess in dict.fromkeys(guess for one in found for guess in one.guesses):
        print(f"estimated: {guess}")


def _print(table: Table) -> None:
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    console.print(table)
