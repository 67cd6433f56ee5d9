"""Pictures of the curves of `growth_data`: `python -m tests.bench.growth_chart`, docs/growth.svg by default."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.bench.chart import Line, line_chart
from tests.bench.growth_data import CURVES
from tests.bench.results import machine
from tests.bench.suite import RESULTS
from tests.harness import ROOT

CHART = ROOT / "docs" / "growth.svg"


def draw(folder: Path) -> str:
    """The picture of all curves that the folder has."""
    known = json.loads((folder / CURVES).read_text(encoding="utf-8"))
    lines = [
        Line(curve["name"], curve["unit"], curve["by"], [(n, value) for n, value in curve["points"]])
        for curves in known.values()
        for curve in curves
    ]
    here = machine()
    return line_chart(
        "What grows with a data folder",
        f"{here['cores']} cores of {here['cpu']}, {here['date']}; milliseconds and seconds are of processors",
        lines,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth_chart", description="Draws docs/growth.svg.")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder with the results; default {RESULTS}")
    parser.add_argument("--to", type=Path, default=CHART, help="the picture; default docs/growth.svg")
    given = parser.parse_args()
    given.to.write_text(draw(given.out), encoding="utf-8")
    print(f"wrote {given.to}")


if __name__ == "__main__":
    main()
