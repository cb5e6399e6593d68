"""What a task is: how pixels become a network's input, and its output an answer."""

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
    """Which part of the uploaded picture the network saw, and at which size.

    Attributes:
        picture_width: Width of the uploaded picture, pixels.
        picture_height: Its height, pixels.
        left: Left edge of the part that the network saw, pixels of the uploaded picture, as are the next three.
        top: Its top edge.
        width: Its width.
        height: Its height.
        input_width: Width at which the network saw it, pixels.
        input_height: Height at which the network saw it, pixels.
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
    """The focal length that a picture's EXIF tells.

    Attributes:
        fx_px: Pixels of the uploaded picture; None where it tells none that holds for this picture.
        reason: How it was found, or why it is none: a sentence for people.
    """

    fx_px: float | None
    reason: str


class Prepared(NamedTuple):
    """A network's input.

    Attributes:
        tensor: uint8 [H, W, 3] RGB, contiguous, of the card's input size.
        geometry: Where it came from.
        exif_focal: What the picture's EXIF tells of its focal length; None where the task does not ask.
    """

    tensor: npt.NDArray[np.uint8]
    geometry: Geometry
    exif_focal: ExifFocal | None = None


class Agreement(NamedTuple):
    """How far two networks agree on an image.

    Attributes:
        agree: Whether they say the same.
        within: Depth: share of the pixels whose depths are within a factor of 1.25.
        abs_rel: Depth: mean of the differences, each as a share of the other network's depth.
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
        """The score that experiments decide by, a share of what is right: `top1`, `delta1`."""
        ...

    @property
    def slow_answer(self) -> bool:
        """Whether `postprocess` takes milliseconds, so that it is called off the event loop."""
        ...

    @property
    def measured_again(self) -> bool:
        """Whether feedback sends the picture again and has the network run on it, rather than naming a class."""
        ...

    def decode_hint(self, card: Card) -> tuple[int, int]:
        """(height, width), pixels, to pass to `imaging.decode`: the decoded picture keeps at least twice that."""
        ...

    def preprocess(self, image: DecodedImage, card: Card) -> Prepared:
        """Makes the network's input from a decoded image."""
        ...

    def postprocess(
        self, output: npt.NDArray[np.float32], prepared: Prepared, card: Card, options: OptionsT_contra
    ) -> ResultT_co:
        """Makes the answer from one row of the network's output.

        Raises:
            BadOutputError: The output has the wrong shape or is not finite.
            BadParameterError: An option does not fit the model.
        """
        ...

    def agree(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Agreement:
        """Compares two networks' outputs for one image, a row each; `b` is what `a` is held against."""
        ...

    def best(self, output: npt.NDArray[Any]) -> tuple[int, ...]:
        """Indices of the best classes of a row of the output, best first, at most five; empty without classes."""
        ...


def resize_region(image: DecodedImage, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Resamples the geometry's region to the network's input: bilinear, with antialiasing when it shrinks.

    Args:
        image: A decoded image; when it was decoded at 1/r of its size, the region is scaled by exactly that.
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
