"""A common style for all plots, with reproducible output files."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3465a4", "#ce5c00", "#888888"

mpl.use("Agg")
mpl.rcParams |= {
    "svg.hashsalt": "bireal",  # makes element ids reproducible
    "svg.fonttype": "path",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "legend.frameon": False,
}


def save(figure: Figure, path: Path) -> None:
    """Write an SVG file without a date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
