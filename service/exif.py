"""What an image's EXIF says about how it was taken. Damaged metadata never makes an intact image fail."""

import math
from dataclasses import dataclass

from PIL import Image

_ORIENTATION = 0x0112
_DETAILS = 0x8769  # points to the directory that holds the tags below
_WIDTH, _HEIGHT = 0xA002, 0xA003  # the image's size as the camera stored it
_FOCAL_35MM = 0xA405

#: Plausible focal lengths on 35 mm film, mm: from the widest fisheye to the longest telescope.
_FOCAL_RANGE_MM = (4, 5000)

#: Aspect ratios differ if one exceeds the other by more than this factor; rounding to pixels and blocks stays below.
_ASPECT_TOLERANCE = 1.02


@dataclass(frozen=True, slots=True)
class Exif:
    """The tags that the service uses.

    Attributes:
        orientation: 1..8; 1 if there is none.
        focal_35mm: `FocalLengthIn35mmFilm`, mm; None if there is none.
        cropped: The aspect ratio differs from what the camera stored: the image was cropped later, or stitched.
    """

    orientation: int = 1
    focal_35mm: int | None = None
    cropped: bool = False


def read(image: Image.Image) -> Exif:
    """The tags of an opened image; unreadable ones count as missing."""
    try:
        tags = image.getexif()
        orientation = tags.get(_ORIENTATION, 1)
        details = tags.get_ifd(_DETAILS)
        focal, width, height = (details.get(tag) for tag in (_FOCAL_35MM, _WIDTH, _HEIGHT))
    except Exception:  # noqa: BLE001  a parser fed untrusted bytes may raise anything
        return Exif(_orientation(image))
    return Exif(
        orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        focal if isinstance(focal, int) and _FOCAL_RANGE_MM[0] <= focal <= _FOCAL_RANGE_MM[1] else None,
        _cropped(image.size, width, height),
    )


def _orientation(image: Image.Image) -> int:
    """The orientation alone, for when the other tags are damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  as above
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _cropped(size: tuple[int, int], width: object, height: object) -> bool:
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        return False
    # Compare the longer side to the shorter: some programs rotate an image without updating its EXIF size.
    ratio = abs(math.log(size[0] / size[1]))
    return abs(ratio - abs(math.log(width / height))) > math.log(_ASPECT_TOLERANCE)
