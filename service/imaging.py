"""From uploaded bytes to RGB pixels: the one place where images from strangers are opened, and all limits on them.

The same bytes give the same pixels for every variant of a model: the hint that allows a reduced decode comes from
the card's input size, which a model shares with its twin.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is decoded at most.

    Attributes:
        max_pixels: Width x height as the header states it, checked before anything is decoded.
    """

    max_pixels: int = 50_000_000


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What the upload was, and what was done to it.

    Attributes:
        format: `JPEG`, `PNG`, `WEBP`, `BMP` or `GIF`, by content.
        width: Width of the picture at full resolution and upright (after EXIF rotation), pixels. All coordinates
            in answers refer to this picture.
        height: Its height, pixels.
        mode: The file's own pixel format: `RGB`, `L`, `LA`, `P`, `RGBA`, `CMYK`, `1`, `I;16`, ...
        converted: What was done to get RGB ("alpha composited on white", ...), or None.
        exif_orientation: The EXIF tag, 1..8; 1 where there is none.
        exif_rotation: Clockwise rotation that was applied, degrees: 0, 90, 180 or 270.
        exif_mirrored: Whether the picture was mirrored left to right before the rotation.
        frames: Number of frames; 1 for a still picture.
        frames_dropped: Frames that were not looked at: all but the first.
        reduction: The JPEG was decoded at 1/reduction of its size (1, 2, 4 or 8), as the network sees less anyway.
    """

    format: str
    width: int
    height: int
    mode: str
    converted: str | None = None
    exif_orientation: int = 1
    exif_rotation: int = 0
    exif_mirrored: bool = False
    frames: int = 1
    frames_dropped: int = 0
    reduction: int = 1


@dataclass(frozen=True)
class DecodedImage:
    """A decoded upload: upright, RGB, at 1/report.reduction of its full size.

    Attributes:
        image: The pixels as a Pillow image of mode RGB.
        report: What the upload was.
    """

    image: Image.Image
    report: ImageReport = field()

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The pixels: uint8 [H, W, 3] RGB, contiguous."""
        return np.ascontiguousarray(np.asarray(self.image))

    @classmethod
    def from_pixels(cls, pixels: npt.NDArray[np.uint8]) -> "DecodedImage":
        """Wraps pixels, uint8 [H, W, 3] RGB, that did not come from a file (synthetic inputs, data loaders)."""
        raise NotImplementedError


def decode(
    data: bytes,
    content_type: str | None = None,
    limits: ImageLimits | None = None,
    *,
    hint: tuple[int, int] | None = None,
) -> DecodedImage:
    """Decodes an uploaded image. Blocks for milliseconds: call it in a thread.

    Args:
        data: The file's bytes.
        content_type: As the client declared it, or None. It is refused when it says that this is no image, and never
            trusted: the format is found from the content.
        limits: Limits on what is decoded.
        hint: (height, width) in pixels of which the task needs at least twofold oversampling, from
            `Task.decode_hint(card)`; allows a JPEG to be decoded at 1/2, 1/4 or 1/8.

    Returns:
        Upright RGB pixels and a report of what was done to get them.

    Raises:
        EmptyBodyError: No bytes (400).
        UnsupportedImageError: No JPEG, PNG, WebP, BMP or GIF, or declared as something else than an image (415).
        BrokenImageError: Truncated or corrupt (422).
        ImageTooLargeError: More pixels than the limit (413), found before decoding.
    """
    raise NotImplementedError
