"""Pictures of depth: the input, the laser measurement, each network's prediction and its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray
from PIL import Image

import models.figures.style  # noqa: F401  sets the look
from service.backends import backend_for
from service.backends.base import LoadedModel
from service.card import Card
from service.evaluation import DepthFrame, frame_errors
from service.imaging import decode
from service.tasks import DEPTH, DepthOptions
from service.tasks.depth import place_in_picture

NEAR_M, FAR_M = 3.0, 80.0
_DOT = 5  # size in pixels of a laser point, so that it is visible
_ERROR_NORM = Normalize(-1, 1)  # log2 of the ratio: half to double
_DEPTH_NORM = LogNorm(NEAR_M, FAR_M)
_DEPTH_COLOURS = mpl.colormaps["viridis_r"]  # near bright, far dark; perceptually uniform
_ERROR_COLOURS = mpl.colormaps["RdBu_r"]


@dataclass
class Network:
    """A model variant that predicts depth maps, loaded on first use.

    Attributes:
        label: its name in pictures.
        card: the model's card.
        variant: the variant to run.
    """

    label: str
    card: Card
    variant: str
    _loaded: LoadedModel | None = field(default=None, repr=False)

    def depth(self, content: bytes, fx_px: float) -> NDArray[np.float32]:
        """Depth of an image file as the service computes it: float32 [H,W] at its size, NaN outside the input."""
        if self._loaded is None:
            self._loaded = backend_for(self.variant).load(self.card, self.variant, intra_op_threads=1)
        image = decode(content, hint=DEPTH.decode_hint(self.card))
        prepared = DEPTH.preprocess(image, self.card)
        output = self._loaded.run(prepared.tensor[None])[0]
        result = DEPTH.postprocess(output, prepared, self.card, DepthOptions(fx_px=fx_px))
        return place_in_picture(result.depth_m, result.geometry)


@dataclass(frozen=True)
class View:
    """One scene with everything needed to draw it.

    Attributes:
        rgb: uint8 [H,W,3].
        truth_m: ground truth, float32 [H,W], metres, 0 = unknown.
        predictions: predicted depth, float32 [H,W] in metres, by label.
    """

    rgb: NDArray[np.uint8]
    truth_m: NDArray[np.float32]
    predictions: Mapping[str, NDArray[np.float32]]


def view_of(frame: DepthFrame, networks: list[Network]) -> View:
    """Run the networks on a frame of a packed drive."""
    content, camera = frame.path.read_bytes(), frame.camera()
    with Image.open(frame.path) as image:
        rgb = np.asarray(image.convert("RGB"))
    return View(rgb, frame.truth(), {one.label: one.depth(content, camera.fx_px) for one in networks})


def picture(view: View, title: str, truth_name: str = "LiDAR") -> Figure:
    """Draw a view. Top row: input, measured depth. Then one row per network: depth map, error at measured points."""
    rows = len(view.predictions) + 1
    height, width = view.truth_m.shape
    figure = Figure(figsize=(13, 0.55 + rows * (6.2 * height / width + 0.25)), layout="constrained")
    axes: NDArray[np.object_] = figure.subplots(rows, 2, squeeze=False)
    _show(axes[0, 0], view.rgb, title)
    _show(axes[0, 1], _dots(_coloured_depth(view.truth_m), view.truth_m > 0), f"{truth_name}, metres")
    for row, (label, depth_m) in enumerate(view.predictions.items(), 1):
        _show(axes[row, 0], _coloured_depth(depth_m), f"{label}, metres")
        found = frame_errors(depth_m, view.truth_m).errors
        said = f": delta < 1.25 {found['delta1_80m']:.3f}, abs_rel {found['abs_rel_80m']:.3f}" if found else ""
        _show(axes[row, 1], _coloured_error(depth_m, view.truth_m), f"its error{said}")
    depth_bar = figure.colorbar(
        ScalarMappable(_DEPTH_NORM, _DEPTH_COLOURS), ax=axes[:, 0], location="bottom", aspect=60, shrink=0.8
    )
    depth_bar.ax.xaxis.set_major_locator(FixedLocator([3, 5, 10, 20, 40, 80]))
    depth_bar.ax.xaxis.set_minor_locator(NullLocator())
    depth_bar.set_ticklabels(["3", "5", "10", "20", "40", "80 m"])
    error_bar = figure.colorbar(
        ScalarMappable(_ERROR_NORM, _ERROR_COLOURS), ax=axes[:, 1], location="bottom", aspect=60, shrink=0.8
    )
    error_bar.set_ticks(
        [-1, -np.log2(1.25), 0, np.log2(1.25), 1],
        labels=["half: too near", "1/1.25", "right", "1.25", "double: too far"],
    )
    return figure


def save_picture(figure: Figure, path: Path) -> None:
    """Write a JPEG without a date: a third of a PNG's size, with colours that still match the colour bars."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, format="jpeg", pil_kwargs={"quality": 88, "optimize": True})


def _show(axes: Axes, pixels: NDArray[np.uint8], title: str) -> None:
    axes.imshow(pixels, interpolation="lanczos")
    axes.set_title(title, loc="left")
    axes.set_axis_off()


def _coloured_depth(depth_m: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour-coded depth, uint8 [H,W,3]; grey where it is NaN."""
    colours = _DEPTH_COLOURS(_DEPTH_NORM(np.clip(np.nan_to_num(depth_m, nan=NEAR_M), NEAR_M, FAR_M)), bytes=True)
    rgb: NDArray[np.uint8] = np.array(colours[..., :3])
    rgb[np.isnan(depth_m)] = 128
    return rgb


def _coloured_error(depth_m: NDArray[np.float32], truth_m: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Ratio of prediction to ground truth at its points, on a logarithmic scale: blue too near, red too far."""
    known = (truth_m > 0) & ~np.isnan(depth_m)
    ratio = np.ones_like(depth_m)
    ratio[known] = np.clip(depth_m[known], 1e-3, FAR_M) / truth_m[known]
    colours: NDArray[np.uint8] = _ERROR_COLOURS(_ERROR_NORM(np.log2(ratio)), bytes=True)[..., :3]
    return _dots(colours, known)


def _dots(colours: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The known points of a coloured map [H,W,3], enlarged, on black."""
    out = np.zeros_like(colours)
    rows, columns = np.nonzero(known)
    height, width = known.shape
    reach = range(-(_DOT // 2), _DOT // 2 + 1)
    for down in reach:
        for right in reach:
            out[np.clip(rows + down, 0, height - 1), np.clip(columns + right, 0, width - 1)] = colours[rows, columns]
    return out
