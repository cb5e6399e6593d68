"""Depth: the largest centred region of the card's aspect, scaled to the network's input; metres out.

The network learnt depth from the sizes of things in pixels, seen by one camera. What another camera shows at the same
size in pixels is nearer or farther in proportion to its focal length, so a client that knows its own gets metres:
depth = output * (fx of the picture, in network pixels) / (fx of the training camera, in network pixels).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.card import Card, DepthSpec, TaskName
from service.errors import BadOutputError, BadParameterError
from service.imaging import DecodedImage
from service.tasks.base import Geometry, Prepared, resize_region

#: Percentiles of each row of the network's map that a summary states.
ROW_PERCENTILES = (10.0, 50.0, 90.0)

#: Focal lengths that are taken, pixels: no camera is outside, and metres stay far from the ends of float32.
FX_RANGE_PX = (1.0, 1e6)


@dataclass(frozen=True, slots=True)
class DepthOptions:
    """What a client asks of a depth map.

    Attributes:
        fx_px: Horizontal focal length of the camera, in pixels of the uploaded picture; None takes the one that the
            model was trained for.
        size: `network`: the map at the network's size; `original`: scaled to the region of the upload that it covers.

    Raises:
        BadParameterError: A value is out of range.
    """

    fx_px: float | None = None
    size: Literal["network", "original"] = "network"

    def __post_init__(self) -> None:
        if self.fx_px is not None and not FX_RANGE_PX[0] <= self.fx_px <= FX_RANGE_PX[1]:  # also refuses NaN
            raise BadParameterError(
                "fx",
                f"fx is {self.fx_px}; it must be a focal length of {FX_RANGE_PX[0]:g} to {FX_RANGE_PX[1]:g} pixels "
                "of the uploaded picture.",
                remedy="Leave it out to assume the training camera, or send width / (2 tan(horizontal view / 2)).",
            )
        if self.size not in {"network", "original"}:
            raise BadParameterError(
                "size", f"size is {self.size!r}; it must be network or original.", remedy="Leave it out for network."
            )


@dataclass(frozen=True, slots=True)
class DepthSummary:
    """Figures of a map, metres.

    Attributes:
        min_m: Least depth.
        median_m: Median depth.
        max_m: Largest depth.
        percentiles: Which percentiles `row_percentiles_m` holds.
        row_percentiles_m: For each row of the NETWORK's map, top first, its percentiles.
    """

    min_m: float
    median_m: float
    max_m: float
    percentiles: tuple[float, ...]
    row_percentiles_m: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class DepthResult:
    """The answer.

    Attributes:
        depth_m: float32 [H, W], metres; at the network's size or at that of `geometry`'s region.
        summary: Figures of the map at the network's size.
        geometry: The region of the uploaded picture that the map covers.
        fx_px: The focal length on which the metres rest, pixels of the uploaded picture.
        fx_assumed: True when it is the training camera's and not the client's.
    """

    depth_m: npt.NDArray[np.float32]
    summary: DepthSummary
    geometry: Geometry
    fx_px: float
    fx_assumed: bool


class DepthTask:
    """See `service.tasks.base.Task`."""

    name: TaskName = "depth"

    def decode_hint(self, card: Card) -> tuple[int, int]:
        """The network's input, pixels, enlarged so that it still holds when the other side is the one that is cut."""
        aspect = _camera(card).aspect
        height = max(card.input.height, math.ceil(card.input.width / aspect))
        return height, max(card.input.width, math.ceil(card.input.height * aspect))

    def preprocess(self, image: DecodedImage, card: Card) -> Prepared:
        """Cuts the largest centred region of the card's aspect and scales it to the network's input.

        The region has whole pixels, so that a map of its size fits onto the picture. Scaling is anisotropic when the
        card's aspect is not its input's (KITTI: 1242 x 375 onto 608 x 160), exactly as in training.

        Args:
            image: A decoded image, reduced or not.
            card: The model's card.

        Returns:
            uint8 [height, width, 3], and the region of the picture that it shows.
        """
        width, height = image.report.width, image.report.height
        aspect = _camera(card).aspect
        region_width = min(width, max(1, round(height * aspect)))
        region_height = min(height, max(1, round(width / aspect)))
        geometry = Geometry(
            picture_width=width,
            picture_height=height,
            left=(width - region_width) // 2,
            top=(height - region_height) // 2,
            width=region_width,
            height=region_height,
            input_width=card.input.width,
            input_height=card.input.height,
        )
        return Prepared(resize_region(image, geometry), geometry)

    def postprocess(
        self, output: npt.NDArray[np.float32], prepared: Prepared, card: Card, options: DepthOptions
    ) -> DepthResult:
        """Turns the network's map into the answer.

        Args:
            output: float32 [H, W], metres for the training camera.
            prepared: The input that it was computed from.
            card: The model's card.
            options: What the client asked.

        Returns:
            The answer; with the client's focal length its metres may lie outside the card's range.

        Raises:
            BadOutputError: Not a finite, positive map of the card's size.
        """
        camera = _camera(card)
        geometry = prepared.geometry
        depth_m = self.check_output(output, card)
        if options.fx_px is None:
            fx_px = camera.fx_px / geometry.scale_x
        else:
            fx_px = options.fx_px
            depth_m = depth_m * np.float32(fx_px * geometry.scale_x / camera.fx_px)
        summary = summarise(depth_m)
        if options.size == "original":
            depth_m = resize_depth(depth_m, int(geometry.height), int(geometry.width))
        return DepthResult(depth_m, summary, geometry, fx_px, fx_assumed=options.fx_px is None)

    def check_output(self, output: npt.NDArray[np.float32], card: Card) -> npt.NDArray[np.float32]:
        """Passes on a network's map, float32 [H, W] metres.

        Raises:
            BadOutputError: Not a finite, positive map of the card's size.
        """
        depth_m = np.asarray(output, dtype=np.float32)
        if depth_m.shape != (card.input.height, card.input.width):
            raise BadOutputError(
                f"{card.name}: a map of shape {depth_m.shape} for an input of {card.input.height} x {card.input.width}."
            )
        if not (np.isfinite(depth_m).all() and (depth_m > 0).all()):
            raise BadOutputError(f"{card.name}: depths that are not finite and above 0.")
        return depth_m


def summarise(depth_m: npt.NDArray[np.float32]) -> DepthSummary:
    """Figures of a map, float32 [H, W] metres."""
    rows = np.percentile(depth_m, ROW_PERCENTILES, axis=1).T  # [H, percentiles]
    return DepthSummary(
        min_m=float(depth_m.min()),
        median_m=float(np.median(depth_m)),
        max_m=float(depth_m.max()),
        percentiles=ROW_PERCENTILES,
        row_percentiles_m=tuple(tuple(round(float(value), 3) for value in row) for row in rows),  # millimetres
    )


def resize_depth(depth_m: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Scales a map bilinearly, pixel centres at halves (the Eigen protocol's "bilinear to native size").

    Args:
        depth_m: float32 [H, W], metres.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        float32 [height, width], metres.
    """
    scaled = Image.fromarray(depth_m.astype(np.float32, copy=False)).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(scaled, dtype=np.float32, order="C")


def place_in_picture(depth_m: npt.NDArray[np.float32], geometry: Geometry) -> npt.NDArray[np.float32]:
    """Puts a map at its place in the uploaded picture.

    Args:
        depth_m: float32 [H, W], metres, of any size.
        geometry: The region that it covers, whole pixels as `DepthTask.preprocess` makes them.

    Returns:
        float32 [picture_height, picture_width], metres; NaN outside the region.
    """
    left, top, width, height = (int(x) for x in (geometry.left, geometry.top, geometry.width, geometry.height))
    picture = np.full((geometry.picture_height, geometry.picture_width), np.nan, dtype=np.float32)
    picture[top : top + height, left : left + width] = resize_depth(depth_m, height, width)
    return picture


def _camera(card: Card) -> DepthSpec:
    if card.depth is None:
        raise ValueError(f"{card.name} is no depth model: its card has no depth")
    return card.depth
