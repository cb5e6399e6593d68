"""Depth: the largest centred region of the card's aspect ratio, scaled to the network's input; the output is in metres.

The network infers depth from the sizes of objects in pixels, as seen by the training camera. An object with the same
size in pixels in another camera is nearer or farther in proportion to the focal length. If that is known, depth is
corrected: output * (fx of the picture, in network pixels) / (fx of the training camera, in network pixels).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.card import Card, DepthSpec, TaskName
from service.errors import BadOutputError, BadParameterError
from service.imaging import DecodedImage
from service.tasks.base import Agreement, Geometry, Prepared, resize_region
from service.tasks.focal import Focal, check_fx, exif_focal, resolve

#: Percentiles of each row of the network's map in a summary.
ROW_PERCENTILES = (10.0, 50.0, 90.0)

#: Minimum share of pixels within a factor of 1.25 for two maps to agree.
AGREEMENT = 0.9

#: Number of values per band of a map at the picture's original size, which limits the memory for large pictures.
BAND_VALUES = 1 << 18


@dataclass(frozen=True, slots=True)
class DepthOptions:
    """Options of a depth request.

    Attributes:
        fx_px: Horizontal focal length of the camera, in pixels of the uploaded picture; None for the one from its EXIF
            data, or else the training camera's.
        size: `network` for a map at the network's size; `original` for the size of the uploaded picture, where pixels
            that the network did not see have no depth.

    Raises:
        BadParameterError: A value is out of range.
    """

    fx_px: float | None = None
    size: Literal["network", "original"] = "network"

    def __post_init__(self) -> None:
        if self.fx_px is not None:
            check_fx(self.fx_px)
        if self.size not in {"network", "original"}:
            raise BadParameterError(
                "size", f"size is {self.size!r}; it must be network or original.", remedy="Leave it out for network."
            )


@dataclass(frozen=True, slots=True)
class DepthSummary:
    """Summary of a depth map, metres.

    Attributes:
        min_m: Minimum depth.
        median_m: Median depth.
        max_m: Maximum depth.
        percentiles: The percentiles in `row_percentiles_m`.
        row_percentiles_m: Percentiles of each row of the network's map, top row first.
    """

    min_m: float
    median_m: float
    max_m: float
    percentiles: tuple[float, ...]
    row_percentiles_m: tuple[tuple[float, ...], ...]


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class DepthResult:
    """The answer.

    Attributes:
        depth_m: float32 [H, W], metres, at the network's size regardless of `size`.
        pixels: The network's input, uint8 [H, W, 3] RGB.
        summary: Summary of the map at the network's size.
        geometry: The region of the uploaded picture that the map covers.
        focal: The focal length used for the metres, and its source.
        size: The requested size; see `DepthOptions`.
    """

    depth_m: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.uint8]
    summary: DepthSummary
    geometry: Geometry
    focal: Focal
    size: Literal["network", "original"]

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the map at the requested size, pixels."""
        if self.size == "original":
            return self.geometry.picture_height, self.geometry.picture_width
        return self.geometry.input_height, self.geometry.input_width

    @property
    def valid(self) -> Box:
        """The part of the map at the requested size that has depth: all of it, or the region that the network saw."""
        height, width = self.map_size
        return region_box(self.geometry) if self.size == "original" else Box(0, 0, width, height)

    def bands(self) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Iterates over the valid part of the map at the requested size, a few rows at a time, from the top.

        Yields:
            The band's first row, counted from the top of the valid part, and float32 [rows, valid width], metres.
        """
        _, _, width, height = self.valid
        rows = max(1, BAND_VALUES // width)
        for top in range(0, height, rows):
            end = min(top + rows, height)
            part = (top * self.depth_m.shape[0] / height, end * self.depth_m.shape[0] / height)
            yield top, resize_depth(self.depth_m, end - top, width, rows=part)


class DepthTask:
    """See `service.tasks.base.Task`."""

    name: TaskName = "depth"
    main_score = "delta1"
    slow_answer = True
    measured_again = True

    def decode_hint(self, card: Card) -> tuple[int, int]:
        """Returns the input size in pixels, enlarged so that it suffices whichever side is cropped."""
        aspect = _camera(card).aspect
        height = max(card.input.height, math.ceil(card.input.width / aspect))
        return height, max(card.input.width, math.ceil(card.input.height * aspect))

    def preprocess(self, image: DecodedImage, card: Card) -> Prepared:
        """Crops the largest centred region of the card's aspect ratio and scales it to the network's input.

        The region has whole pixels, so that a map of its size fits the picture exactly. Scaling is anisotropic if the
        card's aspect ratio differs from the input's (KITTI: 1242 x 375 to 608 x 160), exactly as in training.

        Args:
            image: A decoded image, possibly at a reduced size.
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
        return Prepared(resize_region(image, geometry), geometry, exif_focal(image.report))

    def postprocess(
        self, output: npt.NDArray[np.float32], prepared: Prepared, card: Card, options: DepthOptions
    ) -> DepthResult:
        """Converts the network's map to the answer.

        Args:
            output: float32 [H, W], metres for the training camera.
            prepared: The input that it was computed from.
            card: The model's card.
            options: Options of the request.

        Returns:
            The answer; with another focal length than the card's, depths may be outside the card's range.

        Raises:
            BadOutputError: The output is not a finite, positive map of the card's size.
            BadParameterError: The focal length is impossible for this picture.
        """
        camera = _camera(card)
        geometry = prepared.geometry
        focal = resolve(options.fx_px, prepared.exif_focal, geometry, camera.fx_px)
        depth_m = self.check_output(output, card)
        if focal.source != "assumed":
            depth_m = depth_m * np.float32(focal.fx_px * geometry.scale_x / camera.fx_px)
        return DepthResult(depth_m, prepared.tensor, summarise(depth_m), geometry, focal, options.size)

    def agree(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Agreement:
        """See `depth_agreement`."""
        found = depth_agreement(a, b)
        return Agreement(found.agree, *found)

    def best(self, output: npt.NDArray[Any]) -> tuple[int, ...]:  # noqa: ARG002  part of the protocol
        """Returns an empty tuple, because a map has no classes."""
        return ()

    def check_output(self, output: npt.NDArray[np.float32], card: Card) -> npt.NDArray[np.float32]:
        """Checks a network's map and returns it as float32 [H, W], metres.

        Raises:
            BadOutputError: The output is not a finite, positive map of the card's size.
        """
        depth_m = np.asarray(output, dtype=np.float32)
        if depth_m.shape != (card.input.height, card.input.width):
            raise BadOutputError(
                f"{card.name}: the map has shape {depth_m.shape}, expected {card.input.height} x {card.input.width}."
            )
        if not (np.isfinite(depth_m).all() and (depth_m > 0).all()):
            raise BadOutputError(f"{card.name}: the depths are not all finite and above 0.")
        return depth_m


class DepthAgreement(NamedTuple):
    """Agreement of two maps of one picture.

    Attributes:
        within: Share of the pixels whose depths are within a factor of 1.25.
        abs_rel: Mean of |a - b| / b.
    """

    within: float
    abs_rel: float

    @property
    def agree(self) -> bool:
        """Whether the maps agree."""
        return self.within >= AGREEMENT


def depth_agreement(a_m: npt.NDArray[np.float32], b_m: npt.NDArray[np.float32]) -> DepthAgreement:
    """Compares two maps of one picture, float32 [H, W] metres each, all above 0."""
    a, b = a_m.astype(np.float64), b_m.astype(np.float64)
    ratio = np.maximum(a / b, b / a)
    return DepthAgreement(float(np.mean(ratio < 1.25)), float(np.mean(np.abs(a - b) / b)))


def summarise(depth_m: npt.NDArray[np.float32]) -> DepthSummary:
    """Summarises a map, float32 [H, W] metres."""
    rows = np.percentile(depth_m, ROW_PERCENTILES, axis=1).T  # [H, percentiles]
    return DepthSummary(
        min_m=float(depth_m.min()),
        median_m=float(np.median(depth_m)),
        max_m=float(depth_m.max()),
        percentiles=ROW_PERCENTILES,
        row_percentiles_m=tuple(tuple(round(float(value), 3) for value in row) for row in rows),  # millimetres
    )


def resize_depth(
    depth_m: npt.NDArray[np.float32], height: int, width: int, *, rows: tuple[float, float] | None = None
) -> npt.NDArray[np.float32]:
    """Scales a map bilinearly, with pixel centres at half-integers (the Eigen protocol's "bilinear to native size").

    Args:
        depth_m: float32 [H, W], metres.
        height: Rows of the result.
        width: Columns of the result.
        rows: Top and bottom edge of the part to scale, in rows of the map; None for the whole map. Rows next to the
            part are used for interpolation, so that parts join seamlessly.

    Returns:
        float32 [height, width], metres.
    """
    box = None if rows is None else (0.0, rows[0], float(depth_m.shape[1]), rows[1])
    image = Image.fromarray(depth_m.astype(np.float32, copy=False))
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR, box=box), dtype=np.float32, order="C")


def region_box(geometry: Geometry) -> Box:
    """Returns the region that a depth network saw, in whole pixels; see `DepthTask.preprocess`."""
    return Box(int(geometry.left), int(geometry.top), int(geometry.width), int(geometry.height))


def place_in_picture(depth_m: npt.NDArray[np.float32], geometry: Geometry) -> npt.NDArray[np.float32]:
    """Scales a map to its region of the uploaded picture.

    Args:
        depth_m: float32 [H, W], metres, of any size.
        geometry: The region that it covers, in whole pixels; see `DepthTask.preprocess`.

    Returns:
        float32 [picture_height, picture_width], metres; NaN outside the region.
    """
    left, top, width, height = region_box(geometry)
    picture = np.full((geometry.picture_height, geometry.picture_width), np.nan, dtype=np.float32)
    picture[top : top + height, left : left + width] = resize_depth(depth_m, height, width)
    return picture


def _camera(card: Card) -> DepthSpec:
    if card.depth is None:
        raise ValueError(f"{card.name} is not a depth model: its card has no depth")
    return card.depth
