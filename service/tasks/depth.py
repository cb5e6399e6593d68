"""Depth: centre crop to the card's aspect, scaled to the network's input; metres out."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.card import Card, TaskName
from service.imaging import DecodedImage
from service.tasks.base import Geometry, Prepared


@dataclass(frozen=True, slots=True)
class DepthOptions:
    """What a client asks of a depth map.

    Attributes:
        fx_px: Horizontal focal length of the camera, in pixels of the uploaded picture; None takes the one that the
            model was trained for.
        size: `network`: the map at the network's size; `original`: scaled to the region of the upload that it covers.
    """

    fx_px: float | None = None
    size: Literal["network", "original"] = "network"


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
        summary: Its figures.
        geometry: The region of the uploaded picture that the map covers.
        fx_px: The focal length used, pixels of the uploaded picture.
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
        """The network's input, whichever side is cropped."""
        raise NotImplementedError

    def preprocess(self, image: DecodedImage, card: Card) -> Prepared:
        """Cuts the largest centred region of the card's aspect and scales it to the network's input."""
        raise NotImplementedError

    def postprocess(
        self, output: npt.NDArray[np.float32], prepared: Prepared, card: Card, options: DepthOptions
    ) -> DepthResult:
        """Turns a map, float32 [H, W] metres, into the answer."""
        raise NotImplementedError
