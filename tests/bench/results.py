"""What a benchmark gives: rows of a table, with all samples behind them; printed, and written as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HEAD = ("what", "ours", "peer", "figure", "goal", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a figure and its goal.

    ours, peer: medians in `unit`. figure: what is compared with the goal, in `figure_unit` (× for a ratio).
    at_least: the figure must not be below the goal; else not above. goal None: only told. samples: by series.
    """

    what: str
    ours: float
    peer: float | None
    unit: str
    figure: float
    goal: float | None
    at_least: bool = True
    figure_unit: str = "×"
    peer_name: str = ""
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def is_met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of one benchmark. seconds: how long it took."""

    name: str
    title: str
    machine: dict[str, Any]
    model: str
    rounds: int
    seconds: float
    rows: list[Row]


def ratio_row(
    what: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    unit: str,
    goal: float | None,
    at_least: bool = True,
    inverse: bool = False,
    peer_name: str = "",
    note: str = "",
    factor: float = 1.0,
) -> Row:
    """Ours divided by the peer's, round by round, and the median of that: what drifts in the machine drops out.

    inverse: peer divided by ours. factor: from the samples' unit to `unit`.
    """
    pairs = list(zip(ours, peer, strict=True))
    ratios = [theirs / mine if inverse else mine / theirs for mine, theirs in pairs]
    return Row(
        what,
        statistics.median(ours) * factor,
        statistics.median(peer) * factor,
        unit,
        statistics.median(ratios),
        goal,
        at_least,
        peer_name=peer_name,
        note=note,
        samples={"ours": list(ours), "peer": list(peer)},
    )


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(kib / 2**20, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


# -- files


def save(folder: Path, report: Report) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.name}.json"
    path.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> Report:
    document = json.loads(path.read_text(encoding="utf-8"))
    return Report(**{**document, "rows": [Row(**row) for row in document["rows"]]})


# -- text


def number(value: float | None) -> str:
    """Three significant digits or all before the point; nothing for None."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cells(row: Row) -> tuple[str, str, str, str, str, str]:
    """The texts of a row, in the order of HEAD."""
    goal = "" if row.goal is None else f"{'≥' if row.at_least else '≤'} {number(row.goal)} {row.figure_unit}"
    met = {None: "", True: "ok", False: "missed"}[row.is_met]
    unit = f" {row.unit}" if row.unit else ""
    peer = "" if row.peer is None else f"{number(row.peer)}{unit}"
    return row.what, f"{number(row.ours)}{unit}", peer, f"{number(row.figure)} {row.figure_unit}", goal, met


def table(rows: Sequence[Row]) -> str:
    """For a terminal."""
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEAD))]
    return "\n".join(
        "  ".join(text.ljust(width) if n == 0 else text.rjust(width) for n, (text, width) in enumerate(pairs)).rstrip()
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def markdown(rows: Sequence[Row]) -> str:
    """For docs/benchmarks.md."""
    lines: list[tuple[str, ...]] = [("what", "ours", "peer", "figure", "goal", "met")]
    lines += [tuple(text.replace("|", r"\|") for text in cells(row)) for row in rows]
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], "|---|---|---|---|---|---|", *text[1:]])
