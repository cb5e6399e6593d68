"""The interface of tasks, which turn pictures into a network's input and its output into an answer."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.card import Card, TaskName
from service.imaging import DecodedImage

OptionsT_contra = TypeVar("OptionsT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Geometry(NamedTuple):
    """The region of the uploaded picture that the network saw, and the size it was scaled to.

    Attributes:
        picture_width: Width of the uploaded picture, pixels.
        picture_height: Height of the uploaded picture, pixels.
        left: Left edge of the region, in pixels of the uploaded picture.
        top: Top edge of the region, in pixels of the uploaded picture.
        width: Width of the region, in pixels of the uploaded picture.
        height: Height of the region, in pixels of the uploaded picture.
        input_width: Width of the network's input, pixels.
        input_height: Height of the network's input, pixels.
    """

    picture_width: int
    picture_height: int
    left: float
    top: float
    width: float
    height: float
    input_width: int
    input_height: int

    @property
    def scale_x(self) -> float:
        """Network pixels per picture pixel, horizontally."""
        return self.input_width / self.width

    @property
    def scale_y(self) -> float:
        """Network pixels per picture pixel, vertically."""
        return self.input_height / self.height


@dataclass(frozen=True, slots=True)
class ExifFocal:
    """The focal length from a picture's EXIF data.

    Attributes:
        fx_px: Focal length in pixels of the uploaded picture; None if EXIF has none that is valid for this picture.
        reason: A sentence for users: how it was computed, or why there is none.
    """

    fx_px: float | None
    reason: str


class Prepared(NamedTuple):
    """A network's input.

    Attributes:
        tensor: uint8 [H, W, 3] RGB, contiguous, of the card's input size.
        geometry: The region of the picture that it shows.
        exif_focal: The focal length from the picture's EXIF data; None if the task does not need it.
    """

    tensor: npt.NDArray[np.uint8]
    geometry: Geometry
    exif_focal: ExifFocal | None = None


class Agreement(NamedTuple):
    """Agreement of two networks on an image.

    Attributes:
        agree: Whether their answers agree.
        within: Depth: share of the pixels whose depths are within a factor of 1.25.
        abs_rel: Depth: mean of |a - b| / b.
    """

    agree: bool
    within: float | None = None
    abs_rel: float | None = None


class Task(Protocol[OptionsT_contra, ResultT_co]):
    """One task. All methods are pure functions and safe to call from several threads."""

    @property
    def name(self) -> TaskName:
        """The task's name, as in cards, URLs and metric labels."""
        ...

    @property
    def main_score(self) -> str:
        """The score that decides experiments, a share of right results: `top1` or `delta1`."""
        ...

    @property
    def slow_answer(self) -> bool:
        """Whether `postprocess` takes milliseconds and must be called off the event loop."""
        ...

    @property
    def measured_again(self) -> bool:
        """Whether feedback contains the picture, on which the network runs again, instead of a class."""
        ...

    def decode_hint(self, card: Card) -> tuple[int, int]:
        """Returns (height, width) in pixels for `imaging.decode`, which keeps at least twice that."""
        ...

    def preprocess(self, image: DecodedImage, card: Card) -> Prepared:
        """Converts a decoded image to the network's input."""
        ...

    def postprocess(
        self, output: npt.NDArray[np.float32], prepared: Prepared, card: Card, options: OptionsT_contra
    ) -> ResultT_co:
        """Converts one row of the network's output to the answer.

        Raises:
            BadOutputError: The output has the wrong shape or is not finite.
            BadParameterError: An option does not fit the model.
        """
        ...

    def agree(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Agreement:
        """Compares two networks' outputs for one image, one row each; `b` is the reference for `a`."""
        ...

    def best(self, output: npt.NDArray[Any]) -> tuple[int, ...]:
        """Returns the indices of the best classes of an output row, best first, at most five; empty without classes."""
        ...


def resize_region(image: DecodedImage, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Resamples the geometry's region to the network's input: bilinear, with antialiasing when shrinking.

    Args:
        image: A decoded image; if it was decoded at 1/r of its size, the region is scaled by 1/r.
        geometry: The region, in pixels of the uploaded picture.

    Returns:
        uint8 [input_height, input_width, 3], contiguous.
    """
    reduction = image.report.reduction
    decoded_width, decoded_height = image.image.size
    box = (
        max(0.0, geometry.left / reduction),
        max(0.0, geometry.top / reduction),
        min(float(decoded_width), (geometry.left + geometry.width) / reduction),
        min(float(decoded_height), (geometry.top + geometry.height) / reduction),
    )
    size = (geometry.input_width, geometry.input_height)
    return np.array(image.image.resize(size, Image.Resampling.BILINEAR, box=box), dtype=np.uint8, order="C")
