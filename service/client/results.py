"""Answers that have no wire type of their own, and the name that one of those that do has here."""

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
    """A depth map and what ran.

    Attributes:
        metres: float32 [H, W]; NaN where there is no depth.
        valid: Where there is depth, pixels of the map.
        region: The part of the uploaded picture that the network saw, pixels of the upright picture.
        picture_size: (height, width) of the upright picture, pixels.
        fx_px: The focal length on which the metres rest, pixels of the picture.
        fx_source: `query`: yours; `exif`: the picture's; `assumed`: the training camera's.
        model: The model that ran.
        version: Its version.
        variant: The variant that ran.
        kernel: Instruction set of its kernel, or `onnxruntime`.
        request_id: Under which the service logged it.
        feedback_token: To be sent with feedback, where the service takes any.
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
        metres: float32 [N, 3].
        colors: uint8 [N, 3] RGB, the picture's.
        fx_px: The focal length on which the metres rest, pixels of the picture.
        fx_source: `query`: yours; `exif`: the picture's; `assumed`: the training camera's.
        ply: The file as the service sent it.
    """

    metres: npt.NDArray[np.float32]
    colors: npt.NDArray[np.uint8]
    fx_px: float
    fx_source: str
    ply: bytes


class FeedbackResult(FeedbackAnswer):
    """What became of feedback; of a later version of the service, too."""

    model_config = ConfigDict(frozen=True, extra="ignore")
