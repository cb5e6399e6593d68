"""Fig. 7: the approximations of the sign in the backward pass, their derivatives and their distance from the sign."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.binarize.functional import GRADIENTS
from models.figures.style import BLUE, GREY, ORANGE

TITLES = {"clip": "(b) clip", "approxsign": "(c) Eq. 4 and 5", "approxsign3": "(d) Eq. 6 and 7"}
AREAS = {"clip": 1.0, "approxsign": 2.0 / 3.0}  # as the paper states them
RANGE = 1.5
STEP = 1e-4

Curve = NDArray[np.float64]


def curves(gradient: str) -> tuple[Curve, Curve, Curve]:
    """(a, F(a), F'(a)): F' is the surrogate derivative used in training, F its integral with F(-inf) = -1."""
    a = np.arange(-RANGE, RANGE + STEP / 2, STEP)
    slope = GRADIENTS[gradient](torch.from_numpy(a)).numpy().astype(np.float64)
    middle = (slope[1:] + slope[:-1]) / 2
    return a, np.concatenate([[-1.0], -1.0 + np.cumsum(middle) * STEP]), slope


def shaded_area(gradient: str) -> float:
    """Area between the sign and the approximation, by the trapezoidal rule on each side of zero."""
    a, value, _ = curves(gradient)
    gap = np.abs(np.where(a < 0, -1.0, 1.0) - value)
    left, right = a < -STEP / 2, a > STEP / 2
    # the sign jumps at zero, so each side uses its own limit there
    centre = float(value[np.argmin(np.abs(a))])
    return float(
        np.trapezoid(np.append(gap[left], abs(-1.0 - centre)), dx=STEP)
        + np.trapezoid(np.insert(gap[right], 0, abs(1.0 - centre)), dx=STEP)
    )


def draw() -> Figure:
    """Draw the three approximations above their derivatives."""
    figure = Figure(figsize=(9, 4.6))
    axes = figure.subplots(2, 3, sharex=True)
    for column, (gradient, title) in enumerate(TITLES.items()):
        a, value, slope = curves(gradient)
        top, bottom = axes[0, column], axes[1, column]
        for side in (a < 0, a > 0):
            sign = np.where(a[side] < 0, -1.0, 1.0)
            top.plot(a[side], sign, color=GREY)
            top.fill_between(a[side][::50], sign[::50], value[side][::50], color=BLUE, alpha=0.25, linewidth=0)
        top.plot(a[::50], value[::50], color=BLUE)
        top.set_title(f"{title}: area {shaded_area(gradient):.3f}")
        bottom.plot(a[::50], slope[::50], color=ORANGE)
        bottom.set_xlabel("a_r")
    axes[0, 0].set_ylabel("F(a_r), sign grey")
    axes[1, 0].set_ylabel("derivative")
    return figure
