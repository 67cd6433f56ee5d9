"""Charts as SVG: groups of bars beside each other, one colour a series; and small curves beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 940
LABEL_WIDTH = 250
VALUE_WIDTH = 280
BAR = 16
GAP = 4
GROUP_GAP = 18
TOP = 64
COLOURS = ("#0f766e", "#5eead4", "#94a3b8", "#cbd5e1")


@dataclass(frozen=True, slots=True)
class Bar:
    """series: which colour. text: what stands behind it."""

    series: str
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Group:
    label: str
    bars: Sequence[Bar]


def bar_chart(title: str, subtitle: str, groups: Sequence[Group]) -> str:
    """Horizontal bars, each group on a scale of its own: what is compared stands side by side."""
    series = list(dict.fromkeys(bar.series for group in groups for bar in group.bars))
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(series)}
    parts: list[str] = []
    y = TOP + 26
    for group in groups:
        longest = max((bar.value for bar in group.bars), default=0) or 1.0
        middle = y + (len(group.bars) * (BAR + GAP) - GAP) / 2
        parts += _wrapped(group.label, LABEL_WIDTH - 12, middle)
        for bar in group.bars:
            width = max(1.0, bar.value / longest * (WIDTH - LABEL_WIDTH - VALUE_WIDTH))
            parts.append(
                f'<rect x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" '
                f'fill="{colours[bar.series]}"><title>{escape(bar.series)}: {escape(bar.text)}</title></rect>'
            )
            parts.append(f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{y + BAR - 4}">{escape(bar.text)}</text>')
            y += BAR + GAP
        y += GROUP_GAP
    x = 16
    for name in series:
        parts.append(f'<rect x="{x}" y="{TOP - 8}" width="12" height="12" rx="2" fill="{colours[name]}"/>')
        parts.append(f'<text x="{x + 18}" y="{TOP + 2}">{escape(name)}</text>')
        x += 40 + round(7.2 * len(name))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
        f'font-family="system-ui, sans-serif" font-size="12.5" fill="#1e293b">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{y}" rx="6" fill="#ffffff"/>\n'
        f'<text x="16" y="24" font-size="16" font-weight="600">{escape(title)}</text>\n'
        f'<text x="16" y="43" fill="#64748b">{escape(subtitle)}</text>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: what it tells, its unit, what is counted below it, and its points (number, value)."""

    title: str
    unit: str
    by: str
    points: Sequence[tuple[int, float]]


PLOT_COLUMNS, PLOT_WIDTH, PLOT_HEIGHT = 3, 340, 150
_LEFT, _RIGHT, _ABOVE, _BELOW = 16, 16, 44, 34


def line_chart(title: str, subtitle: str, lines: Sequence[Line]) -> str:
    """Each curve in a frame of its own: numbers in powers of ten to the right, values from zero to twice the largest
    upwards, so that a flat one lies in the middle.
    """
    n_rows = -(-len(lines) // PLOT_COLUMNS)
    width, height = PLOT_COLUMNS * PLOT_WIDTH + 32, TOP + n_rows * PLOT_HEIGHT + 8
    parts: list[str] = []
    for number, line in enumerate(lines):
        left = 16 + number % PLOT_COLUMNS * PLOT_WIDTH
        parts += _frame(line, left, TOP + number // PLOT_COLUMNS * PLOT_HEIGHT)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="#1e293b">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>\n'
        f'<text x="16" y="24" font-size="16" font-weight="600">{escape(title)}</text>\n'
        f'<text x="16" y="43" fill="#64748b">{escape(subtitle)}</text>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _frame(line: Line, left: float, top: float) -> list[str]:
    first, last = (math.log10(line.points[n][0]) for n in (0, -1))
    highest = 2 * max(max(value for _, value in line.points), 1e-9)
    right, bottom = left + PLOT_WIDTH - _RIGHT, top + PLOT_HEIGHT - _BELOW
    places = [
        (
            left + _LEFT + (math.log10(n) - first) / ((last - first) or 1) * (right - left - 2 * _LEFT),
            bottom - max(0.0, value) / highest * (bottom - top - _ABOVE),
        )
        for n, value in line.points
    ]
    parts = [
        f'<text x="{left}" y="{top + 14}" font-weight="600">{escape(line.title)}</text>',
        f'<text x="{left}" y="{top + 28}" fill="#64748b">{escape(line.unit)}, by {escape(line.by)}</text>',
        f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#94a3b8"/>',
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" fill="none" stroke="{COLOURS[0]}" '
        'stroke-width="2"/>',
    ]
    for (n, value), (x, y) in zip(line.points, places, strict=True):
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[0]}"/>',
            f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle">{value:.3g}</text>',
            f'<text x="{x:.1f}" y="{bottom + 13:.1f}" text-anchor="middle" fill="#64748b">{f"{n:,}".replace(",", " ")}'
            "</text>",
        ]
    return parts


def _wrapped(text: str, width: float, middle: float) -> list[str]:
    """Right-aligned lines around a height."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) * 6.6 > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    first = middle - (len(lines) - 1) * 7.5 + 4
    return [
        f'<text x="{LABEL_WIDTH - 12}" y="{first + 15 * n:.1f}" text-anchor="end">{escape(line)}</text>'
        for n, line in enumerate(lines)
    ]
