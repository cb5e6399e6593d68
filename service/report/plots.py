"""Plots as inline SVG without scripts, fonts or external files; the page's style sheet defines the colours."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape

_WIDTH = 640
_LEFT, _RIGHT = 150, 90


class Row(NamedTuple):
    """A row of `interval_plot`: a share with its interval, 0..1."""

    label: str
    kind: str
    estimate: float
    lower: float | None
    upper: float | None


def interval_plot(rows: Sequence[Row], title: str) -> Markup:
    """Plots shares as points with whiskers, on an axis from 0 to 100 %."""
    height = 34 * len(rows) + 34

    def x(share: float) -> float:
        return _LEFT + min(max(share, 0.0), 1.0) * (_WIDTH - _LEFT - _RIGHT)

    parts = [_grid([(x(tick / 100), f"{tick} %") for tick in range(0, 101, 20)], 8, height - 24)]
    for number, row in enumerate(rows):
        y = 24 + 34 * number
        text = f"{100 * row.estimate:.1f} %"
        if row.lower is not None and row.upper is not None:
            parts.append(
                f'<line class="whisker {row.kind}" x1="{x(row.lower):.1f}" x2="{x(row.upper):.1f}" y1="{y}" y2="{y}"/>'
            )
        parts.append(f'<circle class="{row.kind}" cx="{x(row.estimate):.1f}" cy="{y}" r="6"/>')
        parts.append(f'<text x="{_LEFT - 12}" y="{y + 5}" text-anchor="end">{escape(row.label)}</text>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 12}" y="{y + 5}">{text}</text>')
    return _svg(height, title, parts)


def histogram(series: Sequence[tuple[str, str, Sequence[float]]], title: str, unit: str) -> Markup:
    """Plots distributions of positive values on a logarithmic axis, with their medians.

    Args:
        series: Label, style (`a` or `b`) and values of each distribution.
        title: Title of the plot.
        unit: Unit of the values.
    """
    values = np.concatenate([np.asarray(each[2], dtype=np.float64) for each in series])
    low, high = float(values.min()) / 1.1, float(values.max()) * 1.1
    edges = np.geomspace(low, high, 49)
    height, base = 210, 170

    def x(value: float) -> float:
        return 20 + (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) * (_WIDTH - 40)

    parts = [_grid([(x(tick), f"{tick:g}") for tick in _log_ticks(low, high)], 30, base)]
    for number, (label, kind, each) in enumerate(series):
        counts, _ = np.histogram(each, edges)
        tallest = max(int(counts.max()), 1)
        for count, begin, end in zip(counts, edges[:-1], edges[1:], strict=True):
            if count:
                bar = 110 * count / tallest
                parts.append(
                    f'<rect class="bar {kind}" x="{x(begin):.1f}" y="{base - bar:.1f}" '
                    f'width="{max(x(end) - x(begin) - 0.5, 0.5):.1f}" height="{bar:.1f}"/>'
                )
        middle = float(np.median(each))
        y = 14 + 16 * number
        parts.append(
            f'<line class="median {kind}" x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="{y + 4}" y2="{base}"/>'
        )
        anchor = "end" if x(middle) > _WIDTH / 2 else "start"
        shift = -6 if anchor == "end" else 6
        parts.append(
            f'<text x="{x(middle) + shift:.1f}" y="{y + 6}" text-anchor="{anchor}">'
            f"{escape(label)}: median {middle:.3g} {escape(unit)}</text>"
        )
    return _svg(height, title, parts)


def scatter(points: Sequence[tuple[float, float, str]], title: str, x_label: str, y_label: str) -> Markup:
    """Plots points (x, y, style) with coordinates 0..1 in a unit square with its diagonal."""
    size, left, top = 300, 60, 12

    def place(value: float) -> float:
        return min(max(value, 0.0), 1.0) * size

    parts = [
        f'<rect class="frame" x="{left}" y="{top}" width="{size}" height="{size}"/>',
        f'<line class="grid" x1="{left}" y1="{top + size}" x2="{left + size}" y2="{top}"/>',
    ]
    parts += [
        f'<circle class="dot {kind}" cx="{left + place(x):.1f}" cy="{top + size - place(y):.1f}" r="3"/>'
        for x, y, kind in points
    ]
    for tick in (0.0, 0.5, 1.0):
        parts.append(f'<text x="{left + place(tick):.0f}" y="{top + size + 18}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{left - 8}" y="{top + size - place(tick) + 5:.0f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="{left + size / 2}" y="{top + size + 38}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="{left + size + 16}" y="{top + size / 2}">{escape(y_label)} (vertical axis)</text>')
    return _svg(top + size + 48, title, parts)


def _log_ticks(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 times the powers of ten within a range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for decade in decades for step in (1, 2, 5) if low <= (tick := step * 10.0**decade) <= high]


def _grid(ticks: Sequence[tuple[float, str]], top: float, bottom: float) -> str:
    return "".join(
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>'
        for x, text in ticks
    )


def _svg(height: float, title: str, parts: Sequence[Any]) -> Markup:
    return Markup(  # noqa: S704  all texts are escaped
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        + "".join(map(str, parts))
        + "</svg>"
    )
