"""Depth: the largest centred region of the card's aspect, scaled to the network's input; metres out.

The network learnt depth from the sizes of things in pixels, seen by one camera. What another camera shows at the same
size in pixels is nearer or farther in proportion to its focal length, so where that is known metres are right:
depth = output * (fx of the picture, in network pixels) / (fx of the training camera, in network pixels).
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

#: Percentiles of each row of the network's map that a summary states.
ROW_PERCENTILES = (10.0, 50.0, 90.0)

#: Share of pixels within a factor of 1.25 from which two maps are said to agree.
AGREEMENT = 0.9

#: Values that are made at once of a map at the picture's own size: what it takes in memory does not grow with it.
_BAND_VALUES = 1 << 18


@dataclass(frozen=True, slots=True)
class DepthOptions:
    """What a client asks of a depth map.

    Attributes:
        fx_px: Horizontal focal length of the camera, in pixels of the uploaded picture; None takes the one that its
            EXIF tells, else the one that the model was trained for.
        size: `network`: the map at the network's size; `original`: in the pixels of the uploaded picture, of which
            those that the network did not see have no depth.

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
        depth_m: float32 [H, W], metres, at the network's size whatever `size` is.
        pixels: uint8 [H, W, 3] RGB: what the network saw.
        summary: Figures of the map at the network's size.
        geometry: The region of the uploaded picture that the map covers.
        focal: The focal length on which the metres rest, and where it came from.
        size: The size that was asked for: see `DepthOptions`.
    """

    depth_m: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.uint8]
    summary: DepthSummary
    geometry: Geometry
    focal: Focal
    size: Literal["network", "original"]

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the map at the size that was asked for, pixels."""
        if self.size == "original":
            return self.geometry.picture_height, self.geometry.picture_width
        return self.geometry.input_height, self.geometry.input_width

    @property
    def valid(self) -> Box:
        """Where the map of that size has depth: all of it, or the region of the picture that the network saw."""
        height, width = self.map_size
        return region_box(self.geometry) if self.size == "original" else Box(0, 0, width, height)

    def bands(self) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """The valid part of the map at the size that was asked for, from the top, a few rows at a time.

        Yields:
            Its first row, counted from the top of the valid part, and float32 [rows, valid width], metres.
        """
        _, _, width, height = self.valid
        rows = max(1, _BAND_VALUES // width)
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
        return Prepared(resize_region(image, geometry), geometry, exif_focal(image.report))

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
            The answer; with another focal length than the card's its metres may lie outside the card's range.

        Raises:
            BadOutputError: Not a finite, positive map of the card's size.
            BadParameterError: The focal length cannot be that of this picture.
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

    def best(self, output: npt.NDArray[Any]) -> tuple[int, ...]:  # noqa: ARG002  the protocol's
        """None: a map has no classes."""
        return ()

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


class DepthAgreement(NamedTuple):
    """How far two maps of one picture agree.

    Attributes:
        within: Share of the pixels whose depths are within a factor of 1.25.
        abs_rel: Mean of |a - b| / b.
    """

    within: float
    abs_rel: float

    @property
    def agree(self) -> bool:
        """Whether the two are said to agree."""
        return self.within >= AGREEMENT


def depth_agreement(a_m: npt.NDArray[np.float32], b_m: npt.NDArray[np.float32]) -> DepthAgreement:
    """Compares two maps of one picture, float32 [H, W] metres each, all above 0."""
    a, b = a_m.astype(np.float64), b_m.astype(np.float64)
    ratio = np.maximum(a / b, b / a)
    return DepthAgreement(float(np.mean(ratio < 1.25)), float(np.mean(np.abs(a - b) / b)))


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


def resize_depth(
    depth_m: npt.NDArray[np.float32], height: int, width: int, *, rows: tuple[float, float] | None = None
) -> npt.NDArray[np.float32]:
    """Scales a map bilinearly, pixel centres at halves (the Eigen protocol's "bilinear to native size").

    Args:
        depth_m: float32 [H, W], metres.
        height: Rows of the result.
        width: Columns of the result.
        rows: First and last edge of the part that is scaled, in rows of the map; None for all of it. Its neighbours
            are looked at as well, so that parts fit together.

    Returns:
        float32 [height, width], metres.
    """
    box = None if rows is None else (0.0, rows[0], float(depth_m.shape[1]), rows[1])
    image = Image.fromarray(depth_m.astype(np.float32, copy=False))
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR, box=box), dtype=np.float32, order="C")


def region_box(geometry: Geometry) -> Box:
    """The region that a depth network saw, as `DepthTask.preprocess` cuts it: whole pixels of the uploaded picture."""
    return Box(int(geometry.left), int(geometry.top), int(geometry.width), int(geometry.height))


def place_in_picture(depth_m: npt.NDArray[np.float32], geometry: Geometry) -> npt.NDArray[np.float32]:
    """Puts a map at its place in the uploaded picture.

    Args:
        depth_m: float32 [H, W], metres, of any size.
        geometry: The region that it covers, whole pixels as `DepthTask.preprocess` makes them.

    Returns:
        float32 [picture_height, picture_width], metres; NaN outside the region.
    """
    left, top, width, height = region_box(geometry)
    picture = np.full((geometry.picture_height, geometry.picture_width), np.nan, dtype=np.float32)
    picture[top : top + height, left : left + width] = resize_depth(depth_m, height, width)
    return picture


def _camera(card: Card) -> DepthSpec:
    if card.depth is None:
        raise ValueError(f"{card.name} is no depth model: its card has no depth")
    return card.depth
