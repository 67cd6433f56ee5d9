"""Curves of what grows: compared where they say something, and drawn as a picture that can be read."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.bench.growth_chart import draw
from tests.bench.growth_curve import Curve, scaled
from tests.bench.growth_data import CURVES


def curve(*points: tuple[int, float], fewest: int = 0) -> Curve:
    return Curve("what <it> takes", "ms", "things", [*points], fewest)


def test_the_last_point_is_compared_with_the_first_one_that_counts() -> None:
    row = curve((10, 1.0), (1000, 4.0), (100_000, 5.0), fewest=1000).row()
    assert (row.figure, row.is_met) == (1.25, True)
    assert row.what == "what <it> takes: 100 000 things against 1 000"
    assert "1 at 10, 4 at 1 000, 5 at 100 000 ms" in row.note
    assert curve((10, 1.0), (1000, 4.0)).row().is_met is False


def test_a_smoke_takes_small_numbers() -> None:
    assert scaled((10, 1000, 10_000), 1.0) == [10, 1000, 10_000]
    assert max(scaled((10, 1000, 10_000), 0.1)) <= 20


def test_all_curves_are_drawn(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=CURVES):
        draw(tmp_path)
    kept = {"one": [asdict(curve((10, 0.0), (1000, 3.5)))], "two": [asdict(curve((5, 1.0)))] * 3}
    (tmp_path / CURVES).write_text(json.dumps(kept), encoding="utf-8")
    picture = ET.fromstring(draw(tmp_path))
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("what <it> takes") == 4
    assert {"3.5", "1 000", "ms, by things"} <= set(texts)
    assert len([*picture.iter("{http://www.w3.org/2000/svg}circle")]) == 5
