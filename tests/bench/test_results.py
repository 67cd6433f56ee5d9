"""Tables, files and charts of benchmarks: what is shown is what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import report, results
from tests.bench.chart import Bar, Group, bar_chart
from tests.bench.results import Report, Row, ratio_row

MACHINE = {"cpu": "Some CPU <4>", "cores": 2, "memory_gib": 23.5, "python": "3.11.2", "date": "2026-01-02"}


def rates(name: str = "llama-server", variant: str = "exact", goal: float | None = 0.95) -> Row:
    return ratio_row(
        f"one chat ({variant}), against {name}",
        [9.0, 10.0, 50.0],
        [10.0, 10.0, 100.0],
        unit="tok/s",
        goal=goal,
        peer_name=name,
    )


def report_of(name: str, *rows: Row, rounds: int = 3) -> Report:
    return Report(name, "a title", MACHINE, "q05.gguf", rounds, 61.0, list(rows))


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    row = rates()
    assert (row.ours, row.peer, row.figure, row.is_met) == (10.0, 10.0, 0.9, False)
    slower = ratio_row("t", [1.0, 2.0], [100.0, 400.0], unit="ms", factor=1000, goal=150, inverse=True)
    assert (slower.ours, slower.figure, slower.is_met) == (1500.0, 150.0, True)


@pytest.mark.parametrize(
    ("figure", "goal", "at_least", "is_met"),
    [(0.95, 0.95, True, True), (0.94, 0.95, True, False), (1.2, 1.2, False, True), (1.3, 1.2, False, False)],
)
def test_a_goal_is_met_at_its_bound(figure: float, goal: float, at_least: bool, is_met: bool) -> None:
    assert Row("", 1, 1, "", figure, goal, at_least).is_met is is_met
    assert Row("", 1, 1, "", figure, None, at_least).is_met is None


def test_rounds_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio_row("", [1.0, 2.0], [1.0], unit="s", goal=1)


def test_a_table_tells_what_is_missed() -> None:
    lines = results.table([rates(), rates(variant="flash attention", goal=0.5), rates(goal=None)]).splitlines()
    assert lines[1].split()[-3:] == ["0.95", "×", "missed"]
    assert lines[2].split()[-3:] == ["0.50", "×", "ok"]
    assert lines[3].rstrip().endswith("0.90 ×")


def test_results_are_read_as_they_were_saved(tmp_path: Path) -> None:
    saved = report_of("one_chat", rates(), rates(goal=None))
    assert results.read(results.save(tmp_path / "new", saved)) == saved


def test_reports_stand_in_the_order_of_the_page(tmp_path: Path) -> None:
    for name in ("zoo", "memory", "one_chat"):
        results.save(tmp_path, report_of(name, rates()))
    assert [each.name for each in report.read_all(tmp_path)] == ["one_chat", "memory", "zoo"]
    assert report.summary(tmp_path).endswith("0 of 3 goals met")
    assert report.summary(tmp_path / "empty") == f"no results in {tmp_path / 'empty'}"


def test_only_the_marked_part_of_the_page_is_replaced() -> None:
    page = f"# Before\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n"
    new = report.update(page, [report_of("one_chat", rates())])
    assert new.startswith("# Before\n\n")
    assert new.endswith("\n\nafter\n")
    assert "old" not in new
    assert "| one chat (exact), against llama-server | 10.0 tok/s | 10.0 tok/s | 0.90 × | ≥ 0.95 × | missed |" in new
    assert report.update(new, [report_of("one_chat", rates())]) == new
    with pytest.raises(ValueError, match="no place"):
        report.update("# Nothing", [report_of("one_chat", rates())])


def test_the_page_of_the_project_has_its_place() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert page.count(report.BEGIN) == page.count(report.END) == 1


def test_the_chart_shows_each_series_once_a_group() -> None:
    rows = [rates(), rates(variant="flash attention"), rates("uninterrupted")]
    texts = svg_texts(report.chart([report_of("one_chat", *rows)]))
    assert texts.count("one chat") == 1
    assert {"ours, exact", "ours, flash attention", "peer"} <= set(texts)
    assert texts.count("10.0") == 2
    assert {"10.0  llama-server", "10.0  uninterrupted"} <= set(texts)


@given(st.lists(st.tuples(st.text("a<&> é\"'", max_size=40), st.floats(0, 1e9)), max_size=6))
def test_a_chart_is_well_formed_whatever_it_shows(bars: list[tuple[str, float]]) -> None:
    group = Group("label", [Bar(name, value, f"{value:g}") for name, value in bars])
    assert "a & b" in svg_texts(bar_chart("a & b", "<c>", [group]))


def svg_texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
