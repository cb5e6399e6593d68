"""Bar charts of a recorded file as SVG text: small, without a plotting library, and readable in a diff."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from loadtest.records.views import BlockView, Cell, NetworkGroup

# One colour per way to run; the bit-packed operator stands out.
_COLOURS = {
    "binary": "#c2410c",
    "openvino-binary": "#0369a1",
    "openvino-binary-default": "#075985",
    "openvino-int8": "#38bdf8",
    "openvino-default": "#7dd3fc",
    "openvino-fp32": "#bae6fd",
    "ort-int8": "#94a3b8",
    "ort-fp32": "#cbd5e1",
    "reference": "#e7e5e4",
}
_OTHER_COLOUR = "#a3a3a3"

_LABEL_WIDTH, _BAR_WIDTH, _TEXT_WIDTH = 210, 480, 110
_BAR_HEIGHT, _GAP, _GROUP_GAP, _HEAD = 16, 3, 12, 44


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: text on its left.
        value: its length.
        text: text on its right.
        way: how the row ran, which determines the colour.
    """

    label: str
    value: float
    text: str
    way: str


@dataclass(frozen=True)
class Group:
    """Bars that belong together.

    Attributes:
        bars: the bars, from top to bottom.
        limit: value marked by a line across the bars, such as the roofline; None for no line.
    """

    bars: tuple[Bar, ...]
    limit: float | None = None


def network_plot(cell: Cell[NetworkGroup], title: str) -> str:
    """Speedup of every way to run every network over the full-precision twin in ONNX Runtime float32."""
    groups = [
        Group(tuple(Bar(row.name, row.ratio_vs_ort_fp32, f"{row.ratio_vs_ort_fp32:.2f}x", way) for way, row in group))
        for group in cell.views
    ]
    return bar_chart(title, f"times the speed of ONNX Runtime float32; {cell.text}", groups)


def kernel_plot(cell: Cell[BlockView], title: str) -> str:
    """GMAC/s of single blocks, with the roofline as a line across each shape's bars."""
    groups = []
    limited = False
    for view in cell.views:
        rows = [(way, row) for way, row in view.rows.items() if row.gmac_per_s is not None]
        bars = tuple(Bar(row.name, row.gmac_per_s or 0.0, f"{row.gmac_per_s:.0f}", way) for way, row in rows)
        groups.append(Group(bars, view.limit_gmac_per_s))
        limited |= view.limit_gmac_per_s is not None
    line = "; the line is the roofline" if limited else ""
    return bar_chart(title, f"GMAC/s, taps inside the image only{line}; {cell.text}", groups)


def bar_chart(title: str, subtitle: str, groups: list[Group]) -> str:
    """Horizontal bars in groups, as an SVG document."""
    longest = max([bar.value for group in groups for bar in group.bars] + [group.limit or 0.0 for group in groups])
    scale = _BAR_WIDTH / longest
    parts = [_text(12, 20, title, "font-weight='bold' font-size='14'"), _text(12, 36, subtitle, "fill='#525252'")]
    y = _HEAD
    for group in groups:
        top = y
        for bar in group.bars:
            colour = _COLOURS.get(bar.way, _OTHER_COLOUR)
            width = max(bar.value * scale, 1)
            middle = y + _BAR_HEIGHT - 4
            parts += [
                _text(_LABEL_WIDTH - 6, middle, bar.label, "text-anchor='end'"),
                f"<rect x='{_LABEL_WIDTH}' y='{y}' width='{width:.1f}' height='{_BAR_HEIGHT}' fill='{colour}'/>",
                _text(round(_LABEL_WIDTH + width + 5), middle, bar.text),
            ]
            y += _BAR_HEIGHT + _GAP
        if group.limit is not None:
            x = _LABEL_WIDTH + group.limit * scale
            parts.append(
                f"<line x1='{x:.1f}' y1='{top - 2}' x2='{x:.1f}' y2='{y - 1}' stroke='#171717' stroke-width='1.5'/>"
            )
        y += _GROUP_GAP
    width = _LABEL_WIDTH + _BAR_WIDTH + _TEXT_WIDTH
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{y}' viewBox='0 0 {width} {y}' "
        "font-family='sans-serif' font-size='11'>"
    )
    background = f"<rect width='{width}' height='{y}' fill='white'/>"
    return "\n".join([head, background, *parts, "</svg>", ""])


def _text(x: int, y: int, text: str, attributes: str = "") -> str:
    return f"<text x='{x}' y='{y}' {attributes}>{escape(text)}</text>".replace(" >", ">")
