"""Plots of depth errors, by distance and by frame. They contain no pixels of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.figures.style import BLUE, GREY, ORANGE

GREEN = "#4e9a06"
COLOURS = (GREY, ORANGE, BLUE, GREEN)  # full precision first

Evaluations = Mapping[str, Mapping[str, Any]]  # label -> output of `service evaluate --json`


def by_distance(evaluations: Evaluations) -> Figure:
    """abs_rel and delta < 1.25 over the true distance, one line per network; bars show the share of the points."""
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name, title in ((left, "abs_rel", "abs_rel"), (right, "delta1", "points with delta < 1.25")):
        first = next(iter(evaluations.values()))["by_distance"]
        total = sum(part["points"] for part in first)
        for part in first:
            axes.bar(
                part["from_m"],
                part["points"] / total,
                part["to_m"] - part["from_m"],
                align="edge",
                color=GREY,
                alpha=0.2,
            )
        for (label, found), colour in zip(evaluations.items(), COLOURS, strict=False):
            parts = [part for part in found["by_distance"] if part["points"]]
            middles = [(part["from_m"] + part["to_m"]) / 2 for part in parts]
            axes.plot(middles, [part[name] for part in parts], "o-", color=colour, label=label, markersize=4)
        axes.set_xlabel("true distance, metres")
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        axes.set_title(title, loc="left")
    left.plot([], [], color=GREY, alpha=0.3, linewidth=6, label="share of the points")
    left.legend()
    return figure


def by_frame(evaluations: Evaluations) -> Figure:
    """abs_rel of each frame: in the order of the drive, and of the other networks against the first."""
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    values = {label: [image["abs_rel_80m"] for image in found["images"]] for label, found in evaluations.items()}
    for (label, column), colour in zip(values.items(), COLOURS, strict=False):
        left.plot(range(len(column)), column, color=colour, label=label)
    left.set_xlabel("frame, in the order of the drive")
    left.set_ylabel("abs_rel, cap 80 m")
    left.set_ylim(0)
    left.legend()
    (first, base), *others = values.items()
    highest = 1.05 * max(max(column) for column in values.values())
    _diagonal(right, highest)
    for (label, column), colour in zip(others, COLOURS[1:], strict=False):
        right.scatter(base, column, 12, color=colour, label=label, alpha=0.8)
    right.set_xlabel(f"abs_rel, {first}")
    right.set_ylabel("abs_rel, binary")
    return figure


def _diagonal(axes: Axes, highest: float) -> None:
    axes.plot([0, highest], [0, highest], color=GREY, linewidth=1)
    axes.set_xlim(0, highest)
    axes.set_ylim(0, highest)
    axes.set_aspect("equal")
