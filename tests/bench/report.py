"""From the results of the last runs to docs/benchmarks.md and its chart: `python -m tests.bench.report [--out DIR]`.

The part of the page between the two marks is replaced; the rest is written by people.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench import results
from tests.bench.chart import Bar, Group, bar_chart
from tests.bench.results import Report, Row, number
from tests.bench.suite import RESULTS
from tests.harness import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
CHART = "benchmarks.svg"
BEGIN = "<!-- results: python -m tests.bench.report -->"
END = "<!-- end of results -->"
ORDER = (
    "one_chat",
    "eight_chats",
    "many_chats",
    "restart",
    "python_server",
    "overhead",
    "warm",
    "uploads",
    "cancel",
    "memory",
)


def read_all(folder: Path) -> list[Report]:
    """The reports of a folder, in the order of the page."""
    found = {path.stem: results.read(path) for path in folder.glob("*.json")}
    return [found[name] for name in (*ORDER, *sorted(found.keys() - set(ORDER))) if name in found]


def rows_of(reports: Sequence[Report]) -> list[Row]:
    return [row for report in reports for row in report.rows]


def summary(folder: Path) -> str:
    """All rows as one table, and how many goals are met."""
    rows = rows_of(read_all(folder))
    if not rows:
        return f"no results in {folder}"
    goals = [row for row in rows if row.is_met is not None]
    return f"{results.table(rows)}\n{sum(bool(row.is_met) for row in goals)} of {len(goals)} goals met"


def conditions(reports: Sequence[Report]) -> str:
    """One sentence: on what the figures were taken."""
    machine = reports[0].machine
    models = ", ".join(sorted({report.model for report in reports}))
    rounds = sorted({report.rounds for report in reports})
    each = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    taken = "one round" if rounds == [1] else f"medians of {each} rounds"
    minutes = sum(report.seconds for report in reports) / 60
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"{machine['date']}; {models}; {taken}, {minutes:.0f} minutes in all."
    )


def chart(reports: Sequence[Report]) -> str:
    """Tokens per second of the rows that have them, ours beside the peers'."""
    groups: dict[str, list[Bar]] = {}
    for row in rows_of(reports):
        if row.unit != "tok/s" or row.peer is None:
            continue
        label, variant = _label(row.what)
        bars = groups.setdefault(label, [])
        if all(bar.series != variant for bar in bars):
            bars.append(Bar(variant, row.ours, f"{number(row.ours)}"))
        peer = Bar("peer", row.peer, f"{number(row.peer)}  {row.peer_name}")
        if all(bar.text != peer.text for bar in bars):
            bars.append(peer)
    ordered = [
        Group(label, sorted(bars, key=lambda bar: (bar.series == "peer", bar.series))) for label, bars in groups.items()
    ]
    return bar_chart("Tokens per second, all chats together", conditions(reports), ordered)


def _label(what: str) -> tuple[str, str]:
    """What a row is about, and which of our variants."""
    label = what.partition(", against")[0]
    for variant in ("exact", "flash attention"):
        if f" ({variant})" in label:
            return label.replace(f" ({variant})", ""), f"ours, {variant}"
    return label, "ours, exact"


def section(reports: Sequence[Report]) -> str:
    """What stands between the marks."""
    notes = [f"- {row.what}: {row.note}." for row in rows_of(reports) if row.note]
    parts = [BEGIN, conditions(reports), f"![Tokens per second]({CHART})", results.markdown(rows_of(reports))]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else []), END])


def update(page: str, reports: Sequence[Report]) -> str:
    """The page with its results replaced. ValueError if it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for results, from {BEGIN} to {END}")
    return before + section(reports) + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder of results; default {RESULTS}")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to update; its chart goes beside it")
    options = parser.parse_args()
    reports = read_all(options.out)
    if not reports:
        sys.exit(f"no results in {options.out}; `make bench` makes them")
    options.page.write_text(update(options.page.read_text(encoding="utf-8"), reports), encoding="utf-8")
    (options.page.parent / CHART).write_text(chart(reports), encoding="utf-8")
    print(f"{options.page} and {options.page.parent / CHART} are up to date")


if __name__ == "__main__":
    main()
