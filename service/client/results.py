"""Result types of the client that differ from the wire types."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict

from service.schemas import FeedbackAnswer


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class DepthMap:
    """A depth map, and what ran.

    Attributes:
        metres: float32 [H, W]; NaN where there is no depth.
        valid: The part of the map that has depth, in pixels of the map.
        region: The region of the image that the network saw, in pixels of the upright image.
        picture_size: (height, width) of the upright image, pixels.
        fx_px: The focal length from which the metres are computed, pixels of the image.
        fx_source: `query`: yours; `exif`: the image's; `assumed`: the training camera's.
        model: The model that ran.
        version: Its version.
        variant: The variant that ran.
        kernel: Instruction set of its kernel, or `onnxruntime`.
        request_id: The id under which the service logged the request.
        feedback_token: The token to send with feedback, if the service accepts feedback.
    """

    metres: npt.NDArray[np.float32]
    valid: Box
    region: Box
    picture_size: tuple[int, int]
    fx_px: float
    fx_source: str
    model: str
    version: str
    variant: str
    kernel: str
    request_id: str
    feedback_token: str | None


@dataclass(frozen=True, slots=True)
class PointCloud:
    """The points of a depth map, in the camera's coordinates: x right, y down, z forward.

    Attributes:
        metres: float32 [N, 3], coordinates.
        colors: uint8 [N, 3] RGB, from the image.
        fx_px: The focal length from which the metres are computed, pixels of the image.
        fx_source: `query`: yours; `exif`: the image's; `assumed`: the training camera's.
        ply: The file as sent by the service.
    """

    metres: npt.NDArray[np.float32]
    colors: npt.NDArray[np.uint8]
    fx_px: float
    fx_source: str
    ply: bytes


class FeedbackResult(FeedbackAnswer):
    """The result of sending feedback. Ignores unknown members, so that a newer service's response is accepted."""

    model_config = ConfigDict(frozen=True, extra="ignore")
